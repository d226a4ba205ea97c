package meshtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Call is a request of a kind that a Load does not know: Rate times a second Do is called, which fails after the load's patience.
type Call struct {
	Rate int
	Do   func(context.Context) error
}

// Hold is a connection of a kind that a Load does not know. It blocks until the connection ends, which is to be when the context does; before
// that it is an end like that of any held connection. It calls alive whenever the connection has done something, which counts as a request.
type Hold func(ctx context.Context, alive func()) error

func (l *Load) call(do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), l.patience)
	defer cancel()
	return do(ctx)
}

func (l *Load) keepHeld(ctx context.Context, hold Hold) {
	err := hold(ctx, func() { l.keep(outcome{due: time.Now(), took: -1}) })
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		err = io.EOF
	}
	l.done(time.Now(), fmt.Errorf("held: %w", err))
	l.end()
}

// HTTP2 makes requests of HTTP/2 without TLS, on one connection.
type HTTP2 struct {
	url string
	tr  *http.Transport
}

// NewHTTP2 asks for a URL. Close it.
func NewHTTP2(url string) *HTTP2 {
	h := &HTTP2{url: url, tr: &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}}
	h.tr.Protocols.SetUnencryptedHTTP2(true)
	return h
}

// Get asks once.
func (h *HTTP2) Get(ctx context.Context) error {
	resp, err := h.ask(ctx, h.url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (h *HTTP2) ask(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := h.tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		resp.Body.Close()
		return nil, fmt.Errorf("status %d, HTTP/%d", resp.StatusCode, resp.ProtoMajor)
	}
	return resp, nil
}

// Hold reads an answer without an end, of ServeStreams.
func (h *HTTP2) Hold(ctx context.Context, alive func()) error {
	resp, err := h.ask(ctx, h.url+StreamPath)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	silent := time.AfterFunc(streamPatience, func() { resp.Body.Close() })
	defer silent.Stop()
	for b := make([]byte, 1); ; silent.Reset(streamPatience) {
		if _, err := io.ReadFull(resp.Body, b); err != nil {
			return err
		}
		alive()
	}
}

// Close ends its connections.
func (h *HTTP2) Close() { h.tr.CloseIdleConnections() }
