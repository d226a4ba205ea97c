package claim_test

import (
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/internal/netns"
)

// TestNetworks: where an Envoy runs goes before what its registration says of that.
func TestNetworks(t *testing.T) {
	web := func() *catalog.Proxy { return proxy("web", 20001, upstream("db", "127.0.0.1", 5000)) }
	twin := func(change ...func(*catalog.Proxy)) *catalog.Proxy {
		return proxy("twin", 20001, append(change, upstream("db", "127.0.0.1", 5000))...)
	}
	synctest.Test(t, func(t *testing.T) {
		config := claim.Config{File: filepath.Join(t.TempDir(), "claims.json")}
		r := run(t, config)
		place := func(id, in string, alone bool) []string {
			r.Place(proxy(id, 1).ID, in, "", alone)
			return r.left()
		}
		r.give(web())
		equal(t, "nothing is said", r.give(twin(), web()), "twin: closed", "web: db")
		equal(t, "in a namespace of its own", place("twin", "net:[7]", true), "twin: db", "web: db")
		equal(t, "a second Envoy says otherwise", place("twin", "net:[8]", false), "twin: closed", "web: db")
		equal(t, "alone again", place("twin", "net:[7]", true), "twin: db", "web: db")
		r.end()
		r = run(t, config)
		equal(t, "started anew", r.give(twin(), web()), "twin: db", "web: db")
		equal(t, "in the namespace of web", place("web", "net:[7]", true), "twin: db", "web: closed")
		equal(t, "web is back", place("web", "", true), "twin: db", "web: db")

		// The registration says it.
		r.Place("twin", "", "", true)
		equal(t, "said by the registration", r.give(twin(network("shop")), web()), "twin: db", "web: db")
		if own := netns.ID(); own != "" {
			equal(t, "that is not so", place("twin", own, true), "twin: closed", "web: db")
			equal(t, "and web is there, too", place("web", own, true), "twin: closed", "web: db")
		}
		r.end()
	})
}

// TestAdministration: nobody is led to an Envoy's administration, whoever said so first, its own proxy
// no more than another's.
func TestAdministration(t *testing.T) {
	allowed := claim.Config{Paths: claim.Paths{Allowed: []string{"/tmp"}}}
	for name, c := range map[string]struct {
		admin string
		evil  func() *catalog.Proxy
		want  string
	}{
		"another's at a port":     {"127.0.0.1:19000", func() *catalog.Proxy { return proxy("evil", 20001, application("127.0.0.1", 19000)) }, "evil: closed"},
		"another's at a socket":   {"unix:/tmp/web/admin.sock", func() *catalog.Proxy { return proxy("evil", 20001, servedBy("/tmp/web/admin.sock")) }, "evil: closed"},
		"in its place":            {"unix:/tmp/web/admin.sock", func() *catalog.Proxy { return proxy("evil", 20001, socket("x", "/tmp/web/admin.sock")) }, "evil: "},
		"another's, exposed":      {"127.0.0.1:19000", func() *catalog.Proxy { return proxy("evil", 20001, exposes("/quitquitquit", 9200, 19000)) }, "evil: "},
		"an upstream on its port": {"127.0.0.1:19000", func() *catalog.Proxy { return proxy("evil", 20001, upstream("x", "0.0.0.0", 19000)) }, "evil: "},
	} {
		for _, whose := range []string{"web", "evil"} {
			synctest.Test(t, func(t *testing.T) {
				r := run(t, allowed)
				r.give(c.evil(), proxy("web", 20000))
				r.Place(proxy(whose, 1).ID, "", c.admin, true)
				if got := r.left(); got[0] != c.want || got[1] != "web: " {
					t.Errorf("%s, of %s: %q, want %q", name, whose, got, c.want)
				}
				if got := first(r.Registry); !strings.Contains(got, "the administration of the Envoy of "+whose) {
					t.Errorf("%s, of %s: refused: %q", name, whose, got)
				}
				r.end()
				r = run(t, allowed)
				r.Place(proxy(whose, 1).ID, "", c.admin, true)
				if got := r.give(c.evil(), proxy("web", 20000)); got[0] != c.want {
					t.Errorf("%s, of %s, afterwards: %q, want %q", name, whose, got, c.want)
				}
				r.end()
			})
		}
	}
	// Metrics are scraped through exposed paths.
	r := claim.New(allowed)
	if p := r.Admit(contents(proxy("web", 20000, metrics("0.0.0.0:9102"), exposes("/metrics", 9200, 9102)))).Proxies[0]; left(p) != "web: metrics /metrics" {
		t.Errorf("metrics: %q", left(p))
	}
}
