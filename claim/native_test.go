package claim_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/identity"
)

func native(id, address string, port uint16) *catalog.Registration {
	return &catalog.Registration{ID: id, Service: identity.NewName(id), Address: address, Port: port, Native: true, Origin: id + ".hcl:1"}
}

// TestNativeAddresses: where a native application listens no Envoy does, whatever comes at the same time; an Envoy that
// was there first stays.
func TestNativeAddresses(t *testing.T) {
	var log strings.Builder
	r := claim.New(claim.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	const (
		theirs = "proxy web: web.hcl:1: the public listener of web cannot listen on port 8443 of 10.0.0.1: the native application mail does (mail.hcl:1): nobody reaches the service by this proxy: give it another port"
		taken  = "mail.hcl:1: the native application mail cannot be at port 8443 of 10.0.0.1: the public listener of web (web.hcl:1) listens there: who dials it there does not reach mail: give one of them another port"
	)
	other := proxy("web", 20000)
	steps := []struct {
		what     string
		natives  []*catalog.Registration
		proxy    *catalog.Proxy
		want     string
		refusals []string
	}{
		{"at one time", []*catalog.Registration{native("mail", "10.0.0.1", 8443)}, proxy("web", 8443), "web: closed", []string{theirs}},
		{"written elsewhere", []*catalog.Registration{{ID: "mail", Address: "10.0.0.1", Port: 8443, Native: true, Origin: "mail.hcl:1"}}, proxy("web", 8443), "web: closed", []string{theirs}},
		{"it gives way", []*catalog.Registration{native("mail", "10.0.0.1", 8444)}, proxy("web", 8443), "web: ", nil},
		{"it comes back", []*catalog.Registration{native("mail", "10.0.0.1", 8443)}, proxy("web", 8443), "web: ", []string{taken}},
		{"the sidecar gives way", []*catalog.Registration{native("mail", "10.0.0.1", 8443)}, other, "web: ", nil},
		{"the same proxy, and any address of either family", []*catalog.Registration{native("mail", "", 20000)}, other, "web: ", []string{
			"mail.hcl:1: the native application mail cannot be at port 20000 of 0.0.0.0: the public listener of web (web.hcl:1) listens there: who dials it there does not reach mail: give one of them another port",
		}},
		{"gone", nil, other, "web: ", nil},
		{"its own sidecar, and upstreams of others", []*catalog.Registration{native("mail", "", 8443)}, proxy("web", 20001, application("127.0.0.1", 8443), upstream("x", "::1", 8443)), "web: ", []string{
			"proxy web, upstream x: web.hcl:2: upstream x of web cannot listen on port 8443 of ::1: the native application mail does (mail.hcl:1): its listener is not there: give it another local_bind_port",
		}},
		{"on no port, of a name, on another machine, or not native", []*catalog.Registration{
			native("a", "", 0), native("b", "mail.example", 20000), {ID: "c", Host: "10.0.0.2", Address: "10.0.0.2", Port: 20000, Native: true}, {ID: "d", Port: 20000},
		}, other, "web: ", nil},
	}
	for _, s := range steps {
		c := contents(s.proxy)
		c.Registrations = s.natives
		if got := left(r.Admit(c).Proxies[0]); got != s.want {
			t.Errorf("%s: %q is left, want %q", s.what, got, s.want)
		}
		var refusals []string
		for _, x := range r.Refusals() {
			refusals = append(refusals, x.String())
		}
		if diff := cmp.Diff(s.refusals, refusals); diff != "" {
			t.Errorf("%s: refusals (-want +got):\n%s", s.what, diff)
		}
	}
	if !strings.Contains(log.String(), "a native application is not where it says") {
		t.Errorf("log:\n%s", log.String())
	}
}
