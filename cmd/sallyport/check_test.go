package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/netns"
	"github.com/sallyport/sallyport/xds"
)

// leafed is a proxy that is in sync, with a leaf of an hour that began some time ago.
func leafed(id string, age time.Duration) xds.ProxyStatus {
	begin := time.Now().Add(-age)
	return xds.ProxyStatus{
		ID: "web-sidecar-proxy", Instance: id, Service: id, Connected: true, InSync: true, LeafExpires: begin.Add(time.Hour),
		Streams: []xds.StreamStatus{{InSync: true, Leafs: []xds.LeafStatus{{ID: "web", Serial: "1f", NotBefore: begin, NotAfter: begin.Add(time.Hour)}}}},
	}
}

// TestRefusedAddress: who has a port, and where another one is said, stands beside Envoy's words.
func TestRefusedAddress(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	v := instances(map[string]string{"web": "web"})
	host := l.Addr().String()
	p := leafed("web", time.Minute)
	p.InSync, p.Origin = false, "web.hcl:1"
	p.LastNACK = &xds.NACK{Type: "listener", Resources: []string{"db"}, Message: "cannot bind '" + host + "': Address already in use\n", Standing: true}
	for pr := range v.Proxies() {
		pr.Upstreams = []catalog.Upstream{{Destination: identity.NewName("db"), BindAddress: "127.0.0.1", BindPort: uint16(l.Addr().(*net.TCPAddr).Port), Origin: "web.hcl:9"}}
	}
	for network, want := range map[string]string{
		netns.ID():  fmt.Sprintf("in use, by pid %d (", os.Getpid()),
		"":          fmt.Sprintf("in use (if its Envoy runs here, by pid %d (", os.Getpid()),
		"elsewhere": "in use",
	} {
		p.Streams[0].Network = network
		s := admin.Status{Proxies: []xds.ProxyStatus{p}}
		locateRefusals(v, s.Proxies)
		got := judgeProxies(s)
		if len(got) != 1 || !strings.Contains(got[0].Text, want) || strings.Contains(got[0].Text, "pid") != strings.Contains(want, "pid") {
			t.Errorf("in network %q: %+v, want %q", network, got, want)
		}
		if want := "end what has " + host + ", or choose another port (web.hcl:9); it is sent again by itself"; got[0].Remedy != want {
			t.Errorf("the remedy is %q, want %q", got[0].Remedy, want)
		}
	}
	if p.LastNACK.Origin != "" {
		t.Error("a NACK that others may read was changed")
	}
}

// TestWhose: a proxy is said as `sallyport envoy` takes it.
func TestWhose(t *testing.T) {
	t.Parallel()
	s := admin.Status{Proxies: []xds.ProxyStatus{{ID: "web-sidecar-proxy", Instance: "web"}, {ID: "a", Instance: "api"}, {ID: "b", Instance: "api"}, {ID: "c"}}}
	for i, want := range []string{"--sidecar-for web", "--proxy-id a", "--proxy-id b", "--proxy-id c"} {
		if got := whose(s, s.Proxies[i]); got != want {
			t.Errorf("%s is said by %s, want %s", s.Proxies[i].ID, got, want)
		}
	}
}

// TestJudge: each fault has a line that begins with ✗, under its own name, and nothing else has.
func TestJudge(t *testing.T) {
	now := time.Now()
	for want, s := range map[string]admin.Status{
		"": {Proxies: []xds.ProxyStatus{leafed("web", time.Minute)}},
		"control plane: not ready: no valid catalog":       {NotReady: []string{"no valid catalog"}},
		"source: newer contents not taken: web.hcl:3: bad": {Catalog: admin.Catalog{Services: 1, Problems: []string{"web.hcl:3: bad"}}},
		"source: not valid yet: web.hcl:3: bad":            {Catalog: admin.Catalog{Problems: []string{"web.hcl:3: bad"}}},
		"source: agent: in part not up to date for 10s":    {Catalog: admin.Catalog{Source: "agent", StaleSince: now.Add(-10 * time.Second)}},
		"source: not valid yet: api.hcl:3: bad":            {Catalog: admin.Catalog{Problems: []string{"api.hcl:3: bad"}}, NotReady: []string{noCatalog, "api.hcl:3: bad"}},
		"registration: proxy evil: its port is another's":  {Catalog: admin.Catalog{Refused: []string{"proxy evil: its port is another's"}}},
		"proxy: web-sidecar-proxy: not connected":          {Proxies: []xds.ProxyStatus{{ID: "web-sidecar-proxy", Instance: "web"}}},
		"proxy: web-sidecar-proxy: not in the catalog":     {Proxies: []xds.ProxyStatus{{ID: "web-sidecar-proxy", Left: true, Connected: true}}},
		"proxy: web-sidecar-proxy: keeps its last configuration: two listeners": {
			Proxies: []xds.ProxyStatus{{ID: "web-sidecar-proxy", Connected: true, BuildError: "two listeners"}},
		},
		"proxy: web-sidecar-proxy: Envoy refuses listener db: cannot bind": {Proxies: []xds.ProxyStatus{{
			ID: "web-sidecar-proxy", Connected: true, LastNACK: &xds.NACK{Type: "listener", Resources: []string{"db"}, Message: "cannot bind\n", Standing: true},
		}}},
		"application: web at 127.0.0.1:80 does not answer its sidecar web-sidecar-proxy: 1 attempt failed since 9s ago": {
			Proxies:      []xds.ProxyStatus{leafed("web", time.Minute)},
			Applications: map[string]admin.Application{"web-sidecar-proxy": {Address: "127.0.0.1:80", Failed: 1, Since: now.Add(-9 * time.Second)}},
		},
		"certificate: web-sidecar-proxy: the leaf 1f ends in 119s and was not renewed": {Proxies: []xds.ProxyStatus{leafed("web", time.Hour-119*time.Second)}},
		"certificate: web-sidecar-proxy: the leaf 1f ended 60s ago":                    {Proxies: []xds.ProxyStatus{leafed("web", 61*time.Minute)}},
		"certificate: the CA's root ab ends in 12d":                                    {Roots: []admin.Root{{Serial: "ab", Active: true, NotBefore: now.Add(-3000 * 24 * time.Hour), NotAfter: now.Add(12*24*time.Hour + time.Hour)}}},
		"clock: it is wrong": {Clock: "it is wrong"},
		"token: the control plane's own: the token may not": {Catalog: admin.Catalog{Denied: []string{"the token may not"}}},
		"disk: it is full":              {Disk: "it is full", NotReady: []string{"it is full"}},
		"disk: generations not written": {Unrecorded: "generations not written"},
	} {
		var faults []string
		for _, f := range judge(s, now) {
			if !f.OK {
				faults = append(faults, f.Check+": "+f.Text)
			}
		}
		if got := strings.Join(faults, "\n"); want == "" && got != "" || len(faults) > 1 || !strings.HasPrefix(got, want) {
			t.Errorf("faults:\n%s\nwant\n%s", got, want)
		}
		if well := judge(s, now); len(well) != 9 {
			t.Errorf("%d lines, want one for each of 9 things: %+v", len(well), well)
		}
	}
}

func TestClockFault(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "change")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	early := []admin.Root{{Active: true, NotBefore: now.Add(time.Hour)}}
	if got := clockFault(dir, 2*time.Second, []admin.Root{{Active: true, NotBefore: now.Add(-time.Hour)}}, now); got != "" {
		t.Errorf("a clock that is right: %s", got)
	}
	for want, got := range map[string]string{
		"10m0s behind the Consul agent's":   clockFault(dir, 10*time.Minute, nil, now),
		"10m0s ahead of the Consul agent's": clockFault(dir, -10*time.Minute, nil, now),
		"the CA's certificate begins in":    clockFault(dir, 0, early, now),
		"change was written 1h0m":           clockFault(dir, 0, nil, now.Add(-time.Hour)),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("clockFault = %q, want %q", got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("word ", 40)
	for line := range strings.Lines(wrap("  lead: ", long, 4)) {
		if line = strings.TrimSuffix(line, "\n"); len(line) > pageWidth || !strings.HasPrefix(line, "  ") {
			t.Errorf("%d columns: %q", len(line), line)
		}
	}
	if got := wrap("", strings.Repeat("x", 150), 2); got != strings.Repeat("x", 150) {
		t.Errorf("a long word was broken: %q", got)
	}
	command := "`sallyport envoy --sidecar-for web --runtime-dir " + strings.Repeat("x", 40) + "`,"
	if got := wrap("", strings.Repeat("word ", 10)+command+" or see", 2); !strings.Contains(got, "\n  "+command+" or") {
		t.Errorf("a command was broken: %q", got)
	}
	for d, want := range map[time.Duration]string{34 * time.Second: "34s", 12 * time.Minute: "12m", 71 * time.Hour: "71h", 300 * time.Hour: "12d", -5 * time.Second: "-5s"} {
		if got := short(d); got != want {
			t.Errorf("short(%s) = %s, want %s", d, got, want)
		}
	}
}
