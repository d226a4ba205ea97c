package claim_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/identity"
)

// proxy is one with a port of its own for other proxies and its application.
func proxy(name string, port uint16, change ...func(*catalog.Proxy)) *catalog.Proxy {
	p := &catalog.Proxy{
		ID: identity.ProxyID(name), Service: identity.NewName(name), Origin: name + ".hcl:1",
		Inbound: catalog.Inbound{Address: "0.0.0.0", Port: port, LocalAddress: "127.0.0.1", LocalPort: port + 1000},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func upstream(to, address string, port uint16) func(*catalog.Proxy) {
	return func(p *catalog.Proxy) {
		p.Upstreams = append(p.Upstreams, catalog.Upstream{
			Destination: identity.NewName(to), BindAddress: address, BindPort: port,
			Origin: fmt.Sprintf("%s.hcl:%d", p.ID, 2+len(p.Upstreams)),
		})
	}
}

func socket(to, path string) func(*catalog.Proxy) {
	return func(p *catalog.Proxy) {
		p.Upstreams = append(p.Upstreams, catalog.Upstream{Destination: identity.NewName(to), BindSocket: path, Origin: string(p.ID) + ".hcl:5"})
	}
}

func application(address string, port uint16) func(*catalog.Proxy) {
	return func(p *catalog.Proxy) { p.Inbound.LocalAddress, p.Inbound.LocalPort = address, port }
}

func exposes(path string, listener, local uint16) func(*catalog.Proxy) {
	return func(p *catalog.Proxy) {
		p.Exposed = append(p.Exposed, catalog.ExposedPath{Path: path, ListenerPort: listener, LocalPort: local, Origin: string(p.ID) + ".hcl:7"})
	}
}

func metrics(at string) func(*catalog.Proxy) {
	return func(p *catalog.Proxy) { p.Bootstrap.PrometheusBindAddr = at }
}

func network(n string) func(*catalog.Proxy) { return func(p *catalog.Proxy) { p.Network = n } }

func host(h string) func(*catalog.Proxy) { return func(p *catalog.Proxy) { p.Host = h } }

func contents(proxies ...*catalog.Proxy) catalog.Contents { return catalog.Contents{Proxies: proxies} }

// left is what a proxy is left with, in short.
func left(p *catalog.Proxy) string {
	var out []string
	if p.Inbound.Closed != "" {
		out = append(out, "closed")
	}
	if p.Bootstrap.PrometheusBindAddr != "" {
		out = append(out, "metrics")
	}
	for _, e := range p.Exposed {
		out = append(out, e.Path)
	}
	for _, u := range p.Upstreams {
		out = append(out, u.Name())
	}
	return string(p.ID) + ": " + strings.Join(out, " ")
}

func own(address string) claim.Config {
	a := netip.MustParseAddrPort(address)
	return claim.Config{
		Own:   []claim.Address{{What: "sallyport's own --metrics-bind", IP: a.Addr(), Port: a.Port()}},
		Paths: claim.Paths{Allowed: []string{"/run"}},
	}
}

func TestAdmit(t *testing.T) {
	tests := map[string]struct {
		proxies  []*catalog.Proxy
		want     []string
		refusals []string
	}{
		"nobody is in another's way": {
			proxies: []*catalog.Proxy{
				proxy("a", 20000, upstream("x", "127.0.0.1", 5000), metrics("0.0.0.0:9102"), exposes("/m", 9200, 9102)),
				proxy("b", 20001, upstream("x", "127.0.0.2", 5000), upstream("y", "::", 20000), application("127.0.0.1", 21000)),
			},
			want: []string{"a: metrics /m x", "b: x y"},
		},
		"the port of another's upstream": {
			proxies:  []*catalog.Proxy{proxy("a", 20000, upstream("db", "127.0.0.1", 5000)), proxy("b", 20001, upstream("x", "0.0.0.0", 5000), upstream("y", "127.0.0.1", 5001))},
			want:     []string{"a: db", "b: y"},
			refusals: []string{"proxy b, upstream x: b.hcl:2: upstream x of b and upstream db of a (a.hcl:2) cannot both listen on port 5000 of 127.0.0.1: its listener is not there: give it another local_bind_port"},
		},
		"its own public port": {
			proxies:  []*catalog.Proxy{proxy("a", 20000, upstream("x", "127.0.0.1", 20000))},
			want:     []string{"a: "},
			refusals: []string{"proxy a, upstream x: a.hcl:2: upstream x of a and the public listener of a (a.hcl:1) cannot both listen on port 20000 of 127.0.0.1: its listener is not there: give it another local_bind_port"},
		},
		"its own application's port": {
			proxies:  []*catalog.Proxy{proxy("a", 20000, upstream("x", "127.0.0.1", 21000))},
			want:     []string{"a: "},
			refusals: []string{"proxy a, upstream x: a.hcl:2: upstream x of a cannot listen on port 21000 of 127.0.0.1: the application of a does (a.hcl:1): its listener is not there: give it another local_bind_port"},
		},
		"another's public port, for which public listeners go first": {
			proxies:  []*catalog.Proxy{proxy("a", 20000, upstream("x", "127.0.0.1", 20001)), proxy("b", 20001), proxy("c", 20001)},
			want:     []string{"a: ", "b: ", "c: closed"},
			refusals: []string{"proxy a, upstream x: a.hcl:2: upstream x of a and the public listener of b (b.hcl:1) cannot both listen on port 20001 of 127.0.0.1: its listener is not there: give it another local_bind_port", "proxy c: c.hcl:1: the public listener of c and the public listener of b (b.hcl:1) cannot both listen on port 20001 of 0.0.0.0: nobody reaches the service by this proxy: give it another port"},
		},
		"an application where another's upstream is": {
			proxies:  []*catalog.Proxy{proxy("a", 20000, application("0.0.0.0", 5000), exposes("/x", 9200, 5000), exposes("/y", 9201, 5001)), proxy("b", 20001, upstream("db", "127.0.0.1", 5000), upstream("y", "127.0.0.1", 5001))},
			want:     []string{"a: closed", "b: db y"},
			refusals: []string{"proxy a: a.hcl:1: the application of a cannot be at port 5000 of 127.0.0.1: upstream db of b (b.hcl:2) listens there: nobody reaches the service by this proxy: give it the port of its own application", "proxy a: a.hcl:7: the port of the exposed path /y of a cannot be at port 5001 of 127.0.0.1: upstream y of b (b.hcl:3) listens there: its listener is not there: expose a port of the application"},
		},
		"two sidecars of one application": {
			proxies: []*catalog.Proxy{proxy("a", 20000, application("127.0.0.1", 80)), proxy("b", 20001, application("127.0.0.1", 80))},
			want:    []string{"a: ", "b: "},
		},
		"the control plane's own": {
			proxies:  []*catalog.Proxy{proxy("a", 20000, upstream("x", "0.0.0.0", 19876), application("127.0.0.1", 19876)), proxy("b", 20001, metrics("127.0.0.1:19876"))},
			want:     []string{"a: closed", "b: "},
			refusals: []string{"proxy a: a.hcl:1: the application of a cannot be at port 19876 of 127.0.0.1: sallyport's own --metrics-bind listens there: nobody reaches the service by this proxy: give it the port of its own application", "proxy a, upstream x: a.hcl:2: upstream x of a cannot listen on port 19876 of 127.0.0.1: the application of a does (a.hcl:1): its listener is not there: give it another local_bind_port", "proxy b: b.hcl:1: envoy_prometheus_bind_addr of b and sallyport's own --metrics-bind cannot both listen on port 19876 of 127.0.0.1: there are no metrics: choose another address"},
		},
		"an exposed path's": {
			proxies:  []*catalog.Proxy{proxy("a", 20000, exposes("/a", 9200, 80), exposes("/b", 9200, 81)), proxy("b", 20001, exposes("/c", 9200, 80))},
			want:     []string{"a: /a", "b: "},
			refusals: []string{"proxy a: a.hcl:7: the exposed path /b of a and the exposed path /a of a (a.hcl:7) cannot both listen on port 9200 of 0.0.0.0: its listener is not there: give it another listener_port", "proxy b: b.hcl:7: the exposed path /c of b and the exposed path /a of a (a.hcl:7) cannot both listen on port 9200 of 0.0.0.0: its listener is not there: give it another listener_port"},
		},
		"a socket": {
			proxies:  []*catalog.Proxy{proxy("a", 20000, socket("x", "/run/x"), socket("y", "/run/x")), proxy("b", 20001, socket("z", "/run/x"), host("10.0.0.1")), proxy("c", 20002, socket("z", "/run/x"))},
			want:     []string{"a: x", "b: z", "c: "},
			refusals: []string{"proxy a, upstream y: a.hcl:5: upstream y of a and upstream x of a (a.hcl:5) cannot both listen on /run/x: its listener is not there: give it another local_bind_socket_path", "proxy c, upstream z: c.hcl:5: upstream z of c and upstream x of a (a.hcl:5) cannot both listen on /run/x: its listener is not there: give it another local_bind_socket_path"},
		},
		"network namespaces, which share files and no ports": {
			proxies:  []*catalog.Proxy{proxy("a", 20000, upstream("x", "127.0.0.1", 5000), socket("y", "/run/x")), proxy("b", 20000, upstream("x", "127.0.0.1", 5000), socket("z", "/run/x"), network("shop")), proxy("c", 20000, network("shop"))},
			want:     []string{"a: x y", "b: x", "c: closed"},
			refusals: []string{"proxy b, upstream z: b.hcl:5: upstream z of b and upstream y of a (a.hcl:5) cannot both listen on /run/x: its listener is not there: give it another local_bind_socket_path", "proxy c: c.hcl:1: the public listener of c and the public listener of b (b.hcl:1) cannot both listen on port 20000 of 0.0.0.0: nobody reaches the service by this proxy: give it another port"},
		},
		"other machines": {
			proxies: []*catalog.Proxy{
				proxy("a", 20000, upstream("x", "127.0.0.1", 5000)), proxy("b", 20000, upstream("x", "127.0.0.1", 5000), host("10.0.0.1")),
				proxy("c", 20000, upstream("x", "127.0.0.1", 5000), upstream("y", "10.0.0.9", 5001), host("10.0.0.2")), proxy("d", 20000, upstream("y", "10.0.0.9", 5001), host("10.0.0.3")),
			},
			want:     []string{"a: x", "b: x", "c: x y", "d: "},
			refusals: []string{"proxy d, upstream y: d.hcl:2: upstream y of d and upstream y of c (c.hcl:3) cannot both listen on 10.0.0.9:5001: its listener is not there: give it another local_bind_port"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := claim.New(own("127.0.0.1:19876"))
			before := make([]catalog.Proxy, len(tt.proxies))
			for i, p := range tt.proxies {
				before[i] = *p
			}
			var got []string
			for _, p := range r.Admit(contents(tt.proxies...)).Proxies {
				got = append(got, left(p))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("what is left (-want +got):\n%s", diff)
			}
			var refusals []string
			for _, x := range r.Refusals() {
				refusals = append(refusals, x.String())
			}
			if diff := cmp.Diff(tt.refusals, refusals); diff != "" {
				t.Errorf("refusals (-want +got):\n%s", diff)
			}
			for i, p := range tt.proxies {
				if diff := cmp.Diff(before[i], *p); diff != "" {
					t.Errorf("proxy %s was changed (-before +after):\n%s", p.ID, diff)
				}
			}
		})
	}
}

// TestHoldersKeep: who held an address first keeps it, whatever the IDs and the order are, and what
// is free goes to who waits.
func TestHoldersKeep(t *testing.T) {
	var log strings.Builder
	r := claim.New(claim.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	steps := []struct {
		proxies []*catalog.Proxy
		want    []string
	}{
		{[]*catalog.Proxy{proxy("web", 20001, upstream("db", "127.0.0.1", 5000))}, []string{"web: db"}},
		{[]*catalog.Proxy{proxy("evil", 20000, upstream("x", "127.0.0.1", 5000)), proxy("web", 20001, upstream("db", "127.0.0.1", 5000))}, []string{"evil: ", "web: db"}},
		// in the same turn in which web changes in something else, and evil takes its public port, too
		{[]*catalog.Proxy{proxy("evil", 20001, upstream("x", "127.0.0.1", 5000)), proxy("web", 20001, upstream("db", "127.0.0.1", 5000), upstream("y", "127.0.0.1", 5001))}, []string{"evil: closed", "web: db y"}},
		// evil names its application there
		{[]*catalog.Proxy{proxy("evil", 20000, application("127.0.0.1", 5001)), proxy("web", 20001, upstream("db", "127.0.0.1", 5000), upstream("y", "127.0.0.1", 5001))}, []string{"evil: closed", "web: db y"}},
		// two swap ports
		{[]*catalog.Proxy{proxy("evil", 20000), proxy("web", 20001, upstream("db", "127.0.0.1", 5001), upstream("y", "127.0.0.1", 5000))}, []string{"evil: ", "web: db y"}},
		{[]*catalog.Proxy{proxy("evil", 20000, upstream("x", "127.0.0.1", 5000)), proxy("web", 20001, upstream("db", "127.0.0.1", 5001), upstream("y", "127.0.0.1", 5000))}, []string{"evil: ", "web: db y"}},
		// web gives it up
		{[]*catalog.Proxy{proxy("evil", 20000, upstream("x", "127.0.0.1", 5000)), proxy("web", 20001)}, []string{"evil: x", "web: "}},
		{[]*catalog.Proxy{proxy("evil", 20000, upstream("x", "127.0.0.1", 5000)), proxy("web", 20001, upstream("y", "127.0.0.1", 5000))}, []string{"evil: x", "web: "}},
		// evil leaves
		{[]*catalog.Proxy{proxy("web", 20001, upstream("y", "127.0.0.1", 5000))}, []string{"web: y"}},
		{nil, nil},
		{[]*catalog.Proxy{proxy("evil", 20000, upstream("x", "127.0.0.1", 5000))}, []string{"evil: x"}},
	}
	for i, s := range steps {
		var got []string
		for _, p := range r.Admit(contents(s.proxies...)).Proxies {
			got = append(got, left(p))
		}
		if diff := cmp.Diff(s.want, got); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
	if n := strings.Count(log.String(), "upstream x of evil and upstream db of web"); n != 1 {
		t.Errorf("the first refusal was logged %d times:\n%s", n, log.String())
	}
}

// TestAdmitKeepsPointers: what did not change is the same pointer, refused parts or not.
func TestAdmitKeepsPointers(t *testing.T) {
	r := claim.New(claim.Config{})
	web, evil := proxy("web", 20001, upstream("db", "127.0.0.1", 5000)), proxy("xevil", 20000, upstream("x", "127.0.0.1", 5000))
	first := r.Admit(contents(web, evil)).Proxies
	if first[0] != web || first[1] == evil {
		t.Fatalf("admitted %v: want web as it was given, and evil otherwise", first)
	}
	if again := r.Admit(contents(web, evil)).Proxies; again[0] != first[0] || again[1] != first[1] {
		t.Error("the same contents come out as other pointers")
	}
	mine := proxy("mine", 20002)
	if more := r.Admit(contents(mine, web, evil)).Proxies; more[1] != web {
		t.Error("another proxy made web another pointer")
	}
}

// TestRefusedKeeps: a proxy of which nothing can be made keeps what it has, as its Envoy does.
func TestRefusedKeeps(t *testing.T) {
	r := claim.New(claim.Config{})
	r.Admit(contents(proxy("web", 20001, upstream("db", "127.0.0.1", 5000))))
	refused := proxy("web", 0)
	refused.Refused = "no port"
	evil := proxy("evil", 20001, upstream("x", "127.0.0.1", 5000))
	got := r.Admit(contents(evil, refused)).Proxies
	if left(got[0]) != "evil: closed" || got[1] != refused {
		t.Errorf("evil is left with %q, web is %v", left(got[0]), got[1])
	}
	if got := r.Admit(contents(evil)).Proxies; left(got[0]) != "evil: x" {
		t.Errorf("without web evil is left with %q", left(got[0]))
	}
}

// TestManyRefused: a registration with any number of refused parts costs what its size costs, and says
// a bounded number of words.
func TestManyRefused(t *testing.T) {
	var log strings.Builder
	r := claim.New(claim.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	var many []func(*catalog.Proxy)
	for i := range 20000 {
		many = append(many, upstream(fmt.Sprintf("x%d", i), "127.0.0.1", 5000))
	}
	r.Admit(contents(proxy("web", 20001, upstream("db", "127.0.0.1", 5000))))
	p := r.Admit(contents(proxy("evil", 20000, many...), proxy("web", 20001, upstream("db", "127.0.0.1", 5000)))).Proxies
	if left(p[0]) != "evil: " || left(p[1]) != "web: db" {
		t.Errorf("%.60q, %q", left(p[0]), left(p[1]))
	}
	all := r.Refusals()
	if len(all) != 101 || !strings.Contains(all[100].Text, "19900 more") {
		t.Errorf("%d refusals, the last is %s", len(all), all[len(all)-1])
	}
	if lines := strings.Count(log.String(), "\n"); lines > 101 {
		t.Errorf("%d lines were logged", lines)
	}
}
