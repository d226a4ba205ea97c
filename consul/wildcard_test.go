package consul

import (
	"net/http"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// What is said of all destinations is what the newest answer says, whichever destination it is about: an older one does not bring back what was deleted.
func TestWildcardsOfTheNewestAnswer(t *testing.T) {
	const everybody = `{"SourceName": "*", "DestinationName": "*", "Action": "allow"}`
	for _, newest := range []string{"api", "web"} {
		t.Run(newest, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				for _, s := range []string{"api", "web"} {
					f.set("/v1/connect/intentions/match?"+s, []byte(`{"`+s+`": [`+everybody+`]}`))
					f.file("/v1/catalog/node-services/n1", "node-services.json")
				}
				p, _ := running(t, a)
				after(time.Minute)
				all := func() (n int) {
					for _, i := range catalogtest.Intentions(p.must(t)) {
						if i.Destination.IsWildcard() && i.Action == intention.Allow {
							n++
						}
					}
					return n
				}
				if all() != 1 {
					t.Fatalf("%d intentions for all", all())
				}
				other := map[string]string{"api": "web", "web": "api"}[newest]
				f.refuse("/v1/connect/intentions/match?"+other, http.StatusInternalServerError)
				f.set("/v1/connect/intentions/match?"+newest, []byte(`{"`+newest+`": []}`))
				after(time.Minute)
				if all() != 0 {
					t.Error("everybody is let in by what was deleted")
				}
			})
		})
	}
}

// mesh and proxy-defaults are not taken away by an answer that does not say all there is, nor by one that somebody else gives.
func TestEntriesAreNotTakenAway(t *testing.T) {
	const meshPath, defaultsPath = "/v1/config/mesh/mesh", "/v1/config/proxy-defaults/global"
	for name, spoil := range map[string]func(w http.ResponseWriter, f *fake){
		"404 of somebody else": func(w http.ResponseWriter, _ *fake) { http.NotFound(w, nil) },
		"filtered": func(w http.ResponseWriter, f *fake) {
			f.answer(w, &scripted{body: []byte("{}"), index: 12, status: 200, header: filtered})
		},
		"without an index": func(w http.ResponseWriter, f *fake) {
			f.answer(w, &scripted{body: []byte("{}"), status: 200, header: map[string]string{"X-Consul-Index": ""}})
		},
		"null": func(w http.ResponseWriter, f *fake) {
			f.answer(w, &scripted{body: []byte("null"), status: 200, header: map[string]string{"X-Consul-Index": ""}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				f.set(meshPath, []byte(`{"Kind": "mesh", "TLS": {"Incoming": {"TLSMinVersion": "TLSv1_3"}}}`))
				// As Consul has merged it into web's config, where Meta of its service-defaults goes before it.
				f.set(defaultsPath, []byte(`{"Kind": "proxy-defaults", "Config": {"intention_enforcement": "both"}}`))
				p, _ := running(t, a)
				after(time.Minute)
				want := func(what string, tls13 bool, enforcement catalog.Enforcement) {
					t.Helper()
					c := p.must(t)
					in := c.Proxies[len(c.Proxies)-1].Inbound
					if got := !c.Mesh.Incoming.Allow12; got != tls13 || in.Enforcement != enforcement {
						t.Errorf("%s: incoming %+v, enforcement %v", what, c.Mesh.Incoming, in.Enforcement)
					}
				}
				want("at first", true, catalog.ExtAuthz)
				for _, path := range []string{meshPath, defaultsPath} {
					f.hook(path, func(w http.ResponseWriter, _ *http.Request) bool { spoil(w, f); return true })
				}
				f.kill() // so that all is asked anew
				f.revive()
				after(2 * time.Minute)
				want("spoilt", true, catalog.ExtAuthz)
				for _, path := range []string{meshPath, defaultsPath} {
					f.hook(path, func(http.ResponseWriter, *http.Request) bool { return false })
					f.refuse(path, http.StatusNotFound) // Consul's own, with an index
				}
				after(2 * time.Minute)
				want("deleted", false, catalog.Both)
			})
		})
	}
}

// An answer that lacks something adds to what the newest answer said of all destinations, not to what an
// older one about the same destination did: what was deleted since does not come back.
func TestDeletedWildcardStaysDeleted(t *testing.T) {
	const everybody = `{"SourceName": "*", "DestinationName": "*", "Action": "allow"}`
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		for _, s := range []string{"api", "web"} {
			f.set("/v1/connect/intentions/match?"+s, []byte(`{"`+s+`": [`+everybody+`]}`))
		}
		p, _ := running(t, a)
		after(time.Minute)
		if got := actions(p.must(t), "*"); got != "* allow" {
			t.Fatalf("*: %s", got)
		}
		f.set("/v1/connect/intentions/match?api", []byte(`{"api": []}`))
		after(time.Second)
		f.script("/v1/connect/intentions/match?web", []byte(`{"web": []}`), filtered)
		after(time.Minute)
		if got := actions(p.must(t), "*"); got != "" {
			t.Errorf("*: %s", got)
		}
	})
}
