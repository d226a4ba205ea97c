//go:build e2e

package native

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestSDK has the two packages dial each other, be allowed and denied, and go through a change of the root.
func TestSDK(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	ours := built(t, peer)
	theirs := built(t, sdk)
	apps := map[string]*application{"ours": inConsul(t, c, ours, "ours"), "theirs": inConsul(t, c, theirs, "theirs")}
	pairs := [][2]string{{"ours", "theirs"}, {"theirs", "ours"}, {"ours", "ours"}}
	all := func(what string, n int, good bool) {
		t.Helper()
		for _, p := range pairs {
			meshtest.Await(t, fmt.Sprint(p, " ", what), func() error {
				if failed, why, _ := apps[p[0]].dial(p[1], n); good && failed > 0 || !good && failed < n {
					return fmt.Errorf("%d of %d failed: %s", failed, n, why)
				}
				return nil
			})
		}
	}
	all("by the default", 3, false)
	for destination, source := range map[string]string{"theirs": "ours", "ours": "theirs"} {
		c.Intend(destination, meshtest.Intentions{source: allow, "ours": allow})
	}
	all("allowed", 3, true)
	figure(t, "ready: ours=%s theirs=%s", apps["ours"].ready(), apps["theirs"].ready())
	for round := range 2 {
		c.RotateRoot("consul", map[string]any{"PrivateKeyType": "ec", "PrivateKeyBits": []int{384, 256}[round]})
		var dials, failed int
		for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			for _, p := range pairs {
				n, why, _ := apps[p[0]].dial(p[1], 1)
				if n > 0 {
					t.Errorf("%s to %s while the root changes: %s", p[0], p[1], why)
				}
				dials, failed = dials+1, failed+n
			}
		}
		figure(t, "round=%d dials=%d failed=%d", round, dials, failed)
	}
	if r := apps["ours"].ready(); r != "true" {
		t.Errorf("Ready is %s", r)
	}
	for _, destination := range []string{"ours", "theirs"} {
		c.Intend(destination, meshtest.Intentions{"ours": deny, "theirs": deny})
	}
	all("denied", 3, false)
}

// TestDialsPerSecond compares the two packages, in rounds that alternate: each dials each, one dial after the other, each with a
// handshake, a judgement and a ping.
func TestDialsPerSecond(t *testing.T) {
	const rounds, dials = 9, 100
	c := meshtest.StartConsul(t, meshtest.Agent{Default: "allow"})
	programs := map[string]string{"connect": built(t, peer), "sdk": built(t, sdk)}
	apps := map[string]*application{}
	for kind, program := range programs {
		apps[kind] = inConsul(t, c, program, kind)
	}
	kinds := []string{"connect", "sdk"}
	took := map[string][]time.Duration{}
	for round := range rounds + 1 {
		for _, client := range kinds {
			for _, server := range kinds {
				var d time.Duration
				meshtest.Await(t, client+" to "+server, func() error {
					failed, why, all := apps[client].dial(server, dials)
					if failed > 0 {
						return errors.New(why)
					}
					d = all
					return nil
				})
				if round > 0 { // the first one warms up
					took[client+">"+server] = append(took[client+">"+server], d)
				}
			}
		}
	}
	var line strings.Builder
	median := func(pair string) float64 {
		slices.Sort(took[pair])
		return float64(dials) / took[pair][len(took[pair])/2].Seconds()
	}
	for _, pair := range []string{"connect>connect", "connect>sdk", "sdk>connect", "sdk>sdk"} {
		fmt.Fprintf(&line, " %s=%.0f/s", pair, median(pair))
	}
	figure(t, "medians of %d rounds of %d dials:%s", rounds, dials, line.String())
}
