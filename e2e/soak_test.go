//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// soakVariable is how long TestSoak lasts, as "72h"; its long form lasts ten minutes, and else 40 s.
const soakVariable = "SALLYPORT_TEST_SOAK"

// TestSoak runs a mesh whose leafs live for a minute while the catalog changes ten times a second and the control plane is killed now and then:
// nobody notices, and memory and goroutines of the control plane do not grow. The kills follow a seed, which is logged.
func TestSoak(t *testing.T) {
	lasting := 40 * time.Second
	if os.Getenv(longVariable) != "" {
		lasting = 10 * time.Minute // with the machine for itself
	} else {
		t.Parallel()
	}
	if text := os.Getenv(soakVariable); text != "" {
		var err error
		if lasting, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", soakVariable, err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	m, web, api, db := pair(t, "--leaf-ttl", "1m")
	cars := []*meshtest.Sidecar{web, api, db}
	noise := func(n int) { // services that come, change and go, and intentions of theirs
		name := fmt.Sprintf("noise-%d", n%20)
		m.Write(name+".hcl", fmt.Sprintf("services {\n name = %q\n port = 80\n address = \"10.0.0.1\"\n connect { sidecar_service { port = %d } }\n}\n", name, 20000+n%10000))
		m.Write(name+"-intentions.hcl", fmt.Sprintf("Kind = \"service-intentions\"\nName = %q\nSources = [{ Name = \"web\", Action = %q }]\n", name, []string{"allow", "deny"}[n%2]))
	}
	noise(0)
	serials := map[string]string{}
	for _, car := range cars {
		leaf, err := car.Leaf()
		if err != nil {
			t.Fatal(err)
		}
		serials[car.Name] = leaf.Serial
	}
	same := unmodified(t, cars...)
	load := busy(t, m)
	before := goroutines(t, m)
	type sample struct {
		at  time.Duration // since the start of the process
		rss int64
	}
	var samples []sample // of the process that lives longest
	var longest []sample
	started := time.Now()
	nextKill := time.Duration(5+r.IntN(20)) * time.Second
	kills, changes := 0, 0
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(lasting); time.Now().Before(end); {
		<-tick.C
		changes++
		noise(changes)
		if changes%10 == 0 {
			samples = append(samples, sample{time.Since(started), procStatus(t, m.ServeProcess().PID(), "VmRSS")})
		}
		if time.Since(started) > nextKill && time.Until(end) > 10*time.Second {
			if len(samples) > len(longest) {
				longest = samples
			}
			m.KillServe()
			time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
			m.Serve()
			kills++
			samples, started = nil, time.Now()
			// The last third is for one that lives on, whose memory is looked at.
			if nextKill = time.Duration(5+r.IntN(40)) * time.Second; time.Until(end) < lasting/3 {
				nextKill = lasting
			}
		}
	}
	if len(samples) > len(longest) {
		longest = samples
	}
	m.AwaitConnected("web", "api", "db")
	for _, car := range cars {
		meshtest.Await(t, car.Name+"'s leaf is another and valid", func() error {
			leaf, err := car.Leaf()
			if err == nil && (leaf.Serial == serials[car.Name] || time.Until(leaf.Expires) < 0) {
				err = errors.New(leaf.Serial + " until " + leaf.Expires.String())
			}
			return err
		})
	}
	unscathed(t, fmt.Sprintf("%v of changes and %d kills", lasting, kills), load.Stop())
	same("soak")
	after := goroutines(t, m)
	if after > before+10 {
		t.Errorf("%d goroutines, %d at the start", after, before)
	}
	// Growth after the first quarter of that process's life, in percent an hour, by the means of the halves of what remains.
	rest := longest[len(longest)/4:]
	growth := 0.0
	if half := len(rest) / 2; half > 0 {
		var a, b float64
		for _, s := range rest[:half] {
			a += float64(s.rss) / float64(half)
		}
		for _, s := range rest[half : 2*half] {
			b += float64(s.rss) / float64(half)
		}
		growth = 100 * (b - a) / a
	}
	figure(t, "seed=%d seconds=%.0f changes=%d kills=%d rss_mb=%d growth_percent=%.1f over_s=%.0f goroutines_before=%d goroutines_after=%d", seed, lasting.Seconds(), changes, kills, rest[len(rest)-1].rss>>20, growth, rest[len(rest)-1].at.Seconds(), before, after)
	// Short runs say little of an hour: what they may show is a leak of each change.
	if growth > 25 {
		t.Errorf("memory grew by %.0f %%", growth)
	}
}
