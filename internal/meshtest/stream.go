package meshtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// streamInterval is how often a stream says something; an interval of streamPatience without a byte
// is its end.
const (
	streamInterval = 100 * time.Millisecond
	streamPatience = 5 * time.Second
)

// StreamPath is the path at which ServeStreams answers without an end.
const StreamPath = "/stream"

// ServeStreams is a handler that answers a request for StreamPath with a byte ten times a second
// until its client goes, and all others with body.
func ServeStreams(body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != StreamPath {
			_, _ = io.WriteString(w, body)
			return
		}
		tick := time.NewTicker(streamInterval)
		defer tick.Stop()
		for {
			if _, err := io.WriteString(w, "."); err != nil {
				return
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	})
}

// openStream asks url for a stream and reads its first byte. The stream ends with ctx.
func openStream(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("stream: status %d", resp.StatusCode)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("stream: %w", err)
	}
	return resp.Body, nil
}

// follow reads a stream until the load ends. The stream counts as a held connection, and each byte
// as a request.
func (l *Load) follow(ctx context.Context, body io.ReadCloser) {
	defer body.Close()
	silent := time.AfterFunc(streamPatience, func() { body.Close() })
	defer silent.Stop()
	b := make([]byte, 1)
	for {
		due := time.Now().Add(streamInterval)
		_, err := io.ReadFull(body, b)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.done(due, fmt.Errorf("stream: %w", err))
			l.end()
			return
		}
		silent.Reset(streamPatience)
		l.keep(outcome{due: due, took: -1}) // a byte is no round trip
	}
}
