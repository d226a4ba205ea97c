//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestChangeToACK: in an idle mesh a change is accepted by Envoy within 100 ms of being seen: the median of 20 changes of an intention, and of 20 of an endpoint.
func TestChangeToACK(t *testing.T) {
	// Not parallel: it is about an idle mesh.
	m, web, api, _ := pair(t)
	const changes, limit = 20, 100 * time.Millisecond
	kinds := []struct {
		name   string
		change func(n int)
		seen   func() int64 // counts what Envoy accepted
	}{
		{"intention", func(n int) {
			rules := meshtest.Intentions{"web": "allow"}
			if n%2 == 0 {
				rules["batch"] = "allow"
			}
			m.Intend("api", rules)
		}, func() int64 { return api.Stats().Updates()["RDS"] }},
		{"endpoint", func(n int) {
			// A second instance of api comes and goes; nobody listens there, so it is critical.
			if n%2 == 1 {
				m.Remove("api2.hcl")
				return
			}
			m.Write("api2.hcl", fmt.Sprintf(`service {
  name = "api"
  id   = "api2"
  port = 1
  checks = [{ name = "down", status = "critical" }]
  connect { sidecar_service { port = %d } }
}
`, m.Port()))
		}, func() int64 { return web.Stats().Updates()["EDS"] }},
	}
	for _, k := range kinds {
		var took, walls []time.Duration
		for n := range changes {
			time.Sleep(300 * time.Millisecond) // idle
			before, updates := readHistogram(t, m), k.seen()
			start := time.Now()
			k.change(n)
			meshtest.Await(t, "Envoy took the "+k.name, func() error {
				if now := k.seen(); now == updates {
					return fmt.Errorf("%d updates", now)
				}
				return nil
			})
			walls = append(walls, time.Since(start))
			var after histogram
			meshtest.Await(t, "the control plane has seen the ACK", func() error {
				if after = readHistogram(t, m); after.count == before.count {
					return fmt.Errorf("%v changes", after.count)
				}
				return nil
			})
			took = append(took, time.Duration((after.sum-before.sum)/(after.count-before.count)*float64(time.Second)))
		}
		figure(t, "change=%s n=%d seen_to_ack_median_ms=%.1f max_ms=%.1f file_written_to_envoy_median_ms=%.1f", k.name, len(took), millis(median(took)), millis(slices.Max(took)), millis(median(walls)))
		if median(took) > limit {
			t.Errorf("%s: a change takes %v from being seen to Envoy's ACK (median of %d), want at most %v", k.name, median(took), changes, limit)
		}
	}
}

// histogram is sallyport_xds_change_to_ack_seconds.
type histogram struct{ sum, count float64 }

func readHistogram(t *testing.T, m *meshtest.Mesh) (h histogram) {
	t.Helper()
	text := metrics(t, m)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "sallyport_xds_change_to_ack_seconds_sum":
			h.sum = v
		case "sallyport_xds_change_to_ack_seconds_count":
			h.count = v
		}
	}
	return h
}

// metrics are the control plane's, read over its admin socket.
func metrics(t *testing.T, m *meshtest.Mesh) string {
	t.Helper()
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(m.Runtime, "admin.sock"))
	}}}
	resp, err := c.Get("http://sallyport/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("/metrics: %s, %v", resp.Status, err)
	}
	return string(b)
}
