package sidecar

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport/sallyport/admin"
)

const (
	// applicationEvery is how often Envoy is asked for its counters.
	applicationEvery = 2 * time.Second
	// applicationAgain is how often the control plane is told the same again: it may be another one.
	applicationAgain = 30 * time.Second
	// lostAgain is how often a fresh token is asked for as long as Envoy does not reach the control
	// plane.
	lostAgain = 30 * time.Second
)

// counters are Envoy's of the cluster local_app, the application.
type counters struct {
	failed uint64 // attempts to connect that failed, those included that took too long
	bytes  uint64 // sent to and received from connections that were made
	// lost: Envoy has no stream of the control plane.
	lost bool
}

// application watches whether a proxy's application answers. It does not dial it: from another
// network namespace, or as another user, that would say nothing of what Envoy gets.
type application struct {
	log  *slog.Logger
	read func(ctx context.Context) (counters, error)
	tell func(ctx context.Context, a admin.Application) error
	// lost is called when Envoy has been without the control plane for two looks, and now and then as
	// long as it is: its token may have been revoked, or be bound to what the proxy was before.
	lost func()
}

// run asks until ctx ends.
func (w application) run(ctx context.Context) {
	var last counters
	var state admin.Application // zero: it answers, or nobody has asked it anything yet
	var untold bool
	var told, lost time.Time
	for sleepUntil(ctx, time.Now().Add(applicationEvery)) {
		now, err := w.read(ctx)
		if err != nil {
			continue // Envoy starts, or ends
		}
		if now.lost && last.lost && time.Since(lost) > lostAgain {
			lost = time.Now()
			w.lost()
		}
		if now.failed < last.failed || now.bytes < last.bytes {
			last = counters{lost: now.lost} // they were reset
		}
		switch failed := now.failed - last.failed; {
		case now.bytes > last.bytes:
			if state.Failed > 0 {
				w.log.Info("the application answers again")
				state, untold = admin.Application{Answers: true}, true
			}
		case failed > 0:
			if state.Failed == 0 {
				state, untold = admin.Application{Since: time.Now()}, true
				w.log.Warn("the application does not answer: start it, or correct the service's port")
			}
			state.Failed += failed
		}
		last = now
		if untold || state.Failed > 0 && time.Since(told) > applicationAgain {
			if err := w.tell(ctx, state); err != nil {
				w.log.Debug("control plane not told of the application", "err", err)
				continue
			}
			untold, told = false, time.Now()
		}
	}
}

// watchApplication runs an application's watch for the sidecar until ctx ends. lost is the
// application's.
func (s *Sidecar) watchApplication(ctx context.Context, log *slog.Logger, lost func()) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		if s.params.AdminSocket != "" {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.params.AdminSocket)
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.params.AdminBind)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	application{
		log:  log,
		lost: lost,
		read: func(ctx context.Context) (counters, error) { return readCounters(ctx, client) },
		tell: func(ctx context.Context, a admin.Application) error {
			a.ProxyID = s.Proxy.ProxyID
			return s.client.Application(ctx, a)
		},
	}.run(ctx)
}

func readCounters(ctx context.Context, client *http.Client) (c counters, err error) {
	q := url.Values{"format": {"json"}, "filter": {`^(cluster\.local_app\.upstream_cx_(connect_fail|rx_bytes_total|tx_bytes_total)|control_plane\.connected_state)$`}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://envoy/stats?"+q.Encode(), nil)
	if err != nil {
		return c, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return c, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return c, fmt.Errorf("stats of Envoy: %s", resp.Status)
	}
	var stats struct {
		Stats []struct {
			Name  string `json:"name"`
			Value uint64 `json:"value"`
		} `json:"stats"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&stats); err != nil {
		return c, err
	}
	for _, s := range stats.Stats {
		switch {
		case strings.HasPrefix(s.Name, "control_plane"):
			c.lost = s.Value == 0
		case strings.HasSuffix(s.Name, "connect_fail"):
			c.failed += s.Value
		default:
			c.bytes += s.Value
		}
	}
	return c, nil
}
