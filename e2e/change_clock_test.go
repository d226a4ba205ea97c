//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// change is what `sallyport change --json` prints.
type change struct {
	Number  uint64    `json:"number"`
	Seen    time.Time `json:"seen"`
	Proxies []struct {
		ID       string    `json:"id"`
		State    string    `json:"state"`
		Sent     time.Time `json:"sent"`
		Accepted time.Time `json:"accepted"`
	} `json:"proxies"`
}

func lastChange(t *testing.T, m *meshtest.Mesh) (c change) {
	t.Helper()
	if err := json.Unmarshal([]byte(m.MustRun("change", "--json")), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestWhenAChangeArrived asks of one change of an intention when it was seen, sent and accepted, for each Envoy, and that the
// numbers of changes grow over a restart.
func TestWhenAChangeArrived(t *testing.T) {
	t.Parallel()
	m, _, _, _ := pair(t)
	before := lastChange(t, m)
	written := time.Now()
	m.Intend("db", meshtest.Intentions{"web": "allow", "batch": "allow"})
	want := map[string]string{"db-sidecar-proxy": "accepted", "web-sidecar-proxy": "does not concern it", "api-sidecar-proxy": "does not concern it"}
	var c change
	meshtest.Await(t, "the change to be accepted", func() error {
		c = lastChange(t, m)
		for _, p := range c.Proxies {
			if c.Number == before.Number || p.State != want[p.ID] {
				return fmt.Errorf("change %d after %d: %s: %s", c.Number, before.Number, p.ID, p.State)
			}
		}
		return nil
	})
	for _, p := range c.Proxies {
		if p.State != "accepted" {
			figure(t, "change=%d proxy=%s state=%q", c.Number, p.ID, p.State)
			continue
		}
		figure(t, "change=%d proxy=%s written_to_seen_ms=%.1f seen_to_sent_ms=%.1f seen_to_accepted_ms=%.1f", c.Number, p.ID,
			millis(c.Seen.Sub(written)), millis(p.Sent.Sub(c.Seen)), millis(p.Accepted.Sub(c.Seen)))
		if c.Seen.Before(written) || p.Sent.Before(c.Seen) || p.Accepted.Before(p.Sent) {
			t.Errorf("written %s, seen %s, sent %s, accepted %s", written, c.Seen, p.Sent, p.Accepted)
		}
	}
	m.KillServe()
	m.Serve()
	m.AwaitConnected("web", "api", "db")
	if again := lastChange(t, m); again.Number <= c.Number {
		t.Errorf("after a crash the change has the number %d, and the one before had %d", again.Number, c.Number)
	}
}
