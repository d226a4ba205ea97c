package consul

import (
	"net/http"
	"testing"
	"time"
)

// A server that was just started may stream out of a state that it has not read back yet. That a service has nothing healthy counts
// only when the leader says so too.
func TestNothingHealthyIsConfirmed(t *testing.T) {
	const path = "/v1/health/connect/api"
	for name, streamed := range map[string]func(*testing.T) []byte{
		"none":     func(*testing.T) []byte { return []byte("[]") },
		"critical": critical,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				p, _ := running(t, a)
				after(time.Minute)
				before := endpointsOf(p.must(t), "api")
				confirm := func(status int, answer func() []byte) {
					f.hook(path, func(w http.ResponseWriter, r *http.Request) bool {
						if !r.URL.Query().Has("consistent") {
							return false
						}
						if r.URL.Query().Has("cached") || r.URL.Query().Has("index") {
							t.Errorf("asked for confirmation with %s", r.URL.RawQuery)
						}
						f.answer(w, &scripted{body: answer(), index: 1000, status: status})
						return true
					})
				}
				confirm(http.StatusInternalServerError, func() []byte { return []byte("No cluster leader") })
				f.set(path, streamed(t))
				after(20 * time.Second)
				if got := endpointsOf(p.must(t), "api"); got != before {
					t.Errorf("endpoints that no leader confirms to be gone: %q, before %q", got, before)
				}
				confirm(http.StatusOK, func() []byte { return edit(t, "health-api.json") })
				after(20 * time.Second)
				if got := endpointsOf(p.must(t), "api"); got != before {
					t.Errorf("endpoints that the leader still has: %q, before %q", got, before)
				}
				f.hook(path, func(http.ResponseWriter, *http.Request) bool { return false })
				f.set(path, streamed(t)) // now both say so
				after(time.Second)
				if got := endpointsOf(p.must(t), "api"); got == before {
					t.Errorf("endpoints that are gone: %q", got)
				}
			})
		})
	}
}
