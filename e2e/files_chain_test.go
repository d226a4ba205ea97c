//go:build e2e

package e2e

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// versions is a mesh in which web dials api over http, of which there are instances of two versions.
type versions struct {
	*meshtest.Mesh
	t      *testing.T
	app    [2]*meshtest.Server
	public [2]int
}

func newVersions(t *testing.T) *versions {
	t.Helper()
	v := &versions{Mesh: newMesh(t), t: t}
	for i := range v.app {
		v.app[i] = serveHTTP(t, fmt.Sprintf("api version %d", i+1))
		v.public[i] = v.Port()
		v.health(i, "passing")
	}
	v.Write("defaults-api.hcl", "Kind = \"service-defaults\"\nName = \"api\"\nProtocol = \"http\"\n")
	v.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	v.Intend("api", meshtest.Intentions{"web": "allow"})
	v.Write("resolver-api.hcl", `Kind = "service-resolver"
Name = "api"
DefaultSubset = "v1"
Subsets {
  v1 { Filter = "Service.Meta.version == 1" }
  v2 { Filter = "Service.Meta.version == 2" }
}
Failover {
  v2 { Targets = [{ ServiceSubset = "v1" }] }
}
`)
	return v
}

// health writes the registration of an instance.
func (v *versions) health(i int, status string) {
	v.t.Helper()
	v.Write(fmt.Sprintf("api-%d.hcl", i+1), fmt.Sprintf(`service {
  name = "api"
  id   = "api-%[1]d"
  port = %[2]d
  meta { version = "%[1]d" }
  check { status = %[4]q }
  connect { sidecar_service { port = %[3]d } }
}
`, i+1, v.app[i].Port(), v.public[i], status))
}

// split has that share of the requests, in percent, go to version 2.
func (v *versions) split(percent float64) {
	v.t.Helper()
	v.Write("splitter-api.hcl", fmt.Sprintf("Kind = \"service-splitter\"\nName = \"api\"\nSplits = [\n  { Weight = %g, ServiceSubset = \"v1\" },\n  { Weight = %g, ServiceSubset = \"v2\" },\n]\n", 100-percent, percent))
}

// counts are how many requests each version has answered.
func (v *versions) counts() (n [2]float64) {
	return [2]float64{float64(v.app[0].Requests.Load()), float64(v.app[1].Requests.Load())}
}

// share is how much of the requests of a while version 2 answers, in percent, and of how many.
func (v *versions) share(d time.Duration) (percent, of float64) {
	before := v.counts()
	time.Sleep(d)
	now := v.counts()
	first, second := now[0]-before[0], now[1]-before[1]
	return 100 * second / (first + second), first + second
}

// expect waits until the share of version 2 is about what was asked for, and measures it then: it has to be within four standard deviations.
func (v *versions) expect(what string, percent float64) {
	v.t.Helper()
	took := meshtest.Await(v.t, what, func() error {
		got, of := v.share(250 * time.Millisecond)
		if off := 4*deviation(percent, of) + 0.01; math.Abs(got-percent) > off {
			return fmt.Errorf("%.1f %% of %.0f requests go to version 2, want %g", got, of, percent)
		}
		return nil
	})
	got, of := v.share(3 * time.Second)
	figure(v.t, "%s: share=%.2f%% of=%.0f want=%g%% sigma=%.2f after_ms=%.0f", what, got, of, percent, deviation(percent, of), millis(took))
	if math.Abs(got-percent) > 4*deviation(percent, of) {
		v.t.Errorf("%s: %.2f %% of %.0f requests went to version 2, want %g ± %.2f", what, got, of, percent, 4*deviation(percent, of))
	}
}

// deviation is the standard deviation of a share of n requests, in percent.
func deviation(percent, n float64) float64 {
	p := percent / 100
	return 100 * math.Sqrt(p*(1-p)/n)
}

// TestCanary: a canary split is moved from 1 to 50 to 100 % by edits of a file, the new version gets sick, dies, and comes back, and nobody who
// asks notices.
func TestCanary(t *testing.T) {
	t.Parallel()
	v := newVersions(t)
	v.split(1)
	v.Serve()
	cars := v.Sidecars("web", "api-1", "api-2")
	web, second := cars[0], cars[2]
	meshtest.Await(t, "web → api", func() error { return wantAllowed(meshtest.GetPlain("http://" + v.Upstream("web", "api"))) })
	listeners := web.Stats()["listener_manager.listener_modified"]
	load := startLoad(t, meshtest.LoadConfig{URL: "http://" + v.Upstream("web", "api"), KeepAlive: 200, Fresh: 20})
	for _, percent := range []float64{1, 50, 100} {
		v.split(percent)
		v.expect(fmt.Sprintf("split at %g %%", percent), percent)
	}
	v.health(1, "critical")
	v.expect("version 2 is sick", 0)
	v.health(1, "passing")
	v.expect("version 2 is well", 100)

	// It dies, and the catalog does not know: what is tried in vain is tried at the next target.
	v.health(1, "critical")
	v.expect("version 2 is to be restarted", 0)
	second.Close()
	v.health(1, "passing")
	v.expect("version 2 is dead", 0)
	v.Sidecars("api-2")
	v.expect("version 2 is back", 100)
	unscathed(t, "a canary split, and a failover", load.Stop())
	if n := web.Stats()["listener_manager.listener_modified"] - listeners; n != 0 {
		t.Errorf("%d listeners of web were modified", n)
	}
}
