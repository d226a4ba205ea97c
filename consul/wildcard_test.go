package consul

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
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

// The answer about one destination may come after a newer one about another: it does not bring back what is gone. After
// Consul's state was put back, lower indexes are newer.
func TestWildcardOfALateAnswer(t *testing.T) {
	type answer struct {
		of           string
		epoch, index uint64
		action       intention.Action
		filtered     bool
	}
	for name, c := range map[string]struct {
		answers []answer
		want    intention.Action
	}{
		"late":                   {[]answer{{of: "a", index: 20}, {of: "b", index: 10, action: intention.Allow}}, intention.Deny},
		"late, and not all":      {[]answer{{of: "a", index: 20}, {of: "b", index: 10, action: intention.Allow, filtered: true}}, intention.Deny},
		"of the same state":      {[]answer{{of: "a", index: 20}, {of: "b", index: 20, action: intention.Allow}}, intention.Allow},
		"newer":                  {[]answer{{of: "a", index: 20}, {of: "b", index: 21, action: intention.Allow}}, intention.Allow},
		"put back":               {[]answer{{of: "a", index: 20, action: intention.Allow}, {of: "b", epoch: 1, index: 10}}, intention.Deny},
		"of before it was":       {[]answer{{of: "a", epoch: 1, index: 10}, {of: "b", index: 20, action: intention.Allow}}, intention.Deny},
		"put back, first to see": {[]answer{{of: "a", index: 20, action: intention.Allow}, {of: "a", index: 10}}, intention.Deny},
	} {
		t.Run(name, func(t *testing.T) {
			k := &known{}
			states := map[string]*queryState[matched]{"a": {}, "b": {}}
			for _, x := range c.answers {
				everybody := catalog.ByDestination([]intention.Intention{{
					Source: intention.Source{Name: identity.NewName("*")}, Destination: identity.NewName("*"), Action: x.action,
				}})[0]
				q := k.intentionsQuery(x.of)
				if x.filtered { // else the first such answer tells nothing
					q.wary = false
				}
				states[x.of].take(matched{wildcard: everybody}, meta{epoch: x.epoch, index: x.index, filtered: x.filtered}, &q)
			}
			if got := k.wildcard.Intentions[0].Action; got != c.want {
				t.Errorf("all are told %s, want %s", got, c.want)
			}
		})
	}
}

// An answer with a lower index is taken for one of before, until it is known that Consul's state was put back; then it is
// asked for again, and taken in though it says what it said.
func TestWildcardAfterARestore(t *testing.T) {
	const (
		everybody = `{"SourceName": "*", "DestinationName": "*", "Action": "allow"}`
		restored  = 20 * time.Second
		noticed   = 25 * time.Second
	)
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		// hook has a path answer with an index until that is over, and then with another one or an error.
		hook := func(path string, index, next uint64, before, then string, over time.Duration) {
			f.hook(path, func(w http.ResponseWriter, r *http.Request) bool {
				s := &scripted{body: []byte(before), index: index, status: http.StatusOK}
				asked := r.URL.Query().Get("index")
				if asked == strconv.FormatUint(index, 10) {
					select {
					case <-time.After(over - time.Since(start)):
					case <-r.Context().Done():
						return true
					}
				} else if asked != "" {
					<-r.Context().Done()
					return true
				}
				if time.Since(start) >= over {
					if s.body, s.index = []byte(then), next; then == "" {
						s.status = http.StatusInternalServerError
					}
				}
				f.answer(w, s)
				return true
			})
		}
		hook("/v1/connect/intentions/match?api", 50, 0, `{"api": [`+everybody+`]}`, "", time.Hour)
		hook("/v1/connect/intentions/match?web", 10, 12, `{"web": [`+everybody+`]}`, `{"web": []}`, restored)
		hook("/v1/config/mesh/mesh", 40, 40, `{}`, `{}`, noticed) // ended without anything new
		p, _ := running(t, a)
		after(restored - time.Second)
		if got := actions(p.must(t), "*"); got != "* allow" {
			t.Fatalf("*: %s", got)
		}
		hook("/v1/connect/intentions/match?api", 50, 0, "", "", 0) // when it is asked again
		after(noticed - restored)
		if got := actions(p.must(t), "*"); got != "* allow" {
			t.Errorf("before anybody can know, *: %s", got)
		}
		after(time.Minute)
		if got := actions(p.must(t), "*"); got != "" {
			t.Errorf("*: %s", got)
		}
	})
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
