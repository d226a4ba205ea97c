package audit_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// mesh is contents with sidecars of services, and intentions written as "web=>api:allow@i.hcl:3".
func mesh(fallback intention.Action, services, intentions string) catalog.Contents {
	c := catalog.Contents{Whole: true, Mesh: catalog.Mesh{
		TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.test"), Datacenter: "dc1", Datacenters: []string{"dc1"}, Default: fallback,
	}}
	for s := range strings.FieldsSeq(services) {
		s, origin, _ := strings.Cut(s, "@")
		name := identity.NewName(s)
		c.Services = append(c.Services, &catalog.Service{Name: name})
		c.Endpoints = append(c.Endpoints, &catalog.Endpoints{Name: name})
		c.Proxies = append(c.Proxies, &catalog.Proxy{ID: identity.ProxyID(s + "-sidecar-proxy"), Service: name, Origin: origin})
	}
	var all []intention.Intention
	for i := range strings.FieldsSeq(intentions) {
		i, origin, _ := strings.Cut(i, "@")
		i, action, _ := strings.Cut(i, ":")
		source, destination, _ := strings.Cut(i, "=>")
		n := intention.Intention{Source: intention.Source{Name: identity.NewName(source)}, Destination: identity.NewName(destination), Origin: origin}
		if action == "allow" {
			n.Action = intention.Allow
		}
		all = append(all, n)
	}
	c.Intentions = catalog.ByDestination(all)
	c.Sort()
	return c
}

// lines is what a Trail logs of contents that follow each other.
func lines(t *testing.T, ready func() bool, all ...catalog.Contents) []string {
	t.Helper()
	var out bytes.Buffer
	plain := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}
	trail := audit.Trail{Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: plain})), Ready: ready}
	store := catalog.Store{Changed: trail.Changed}
	for _, c := range all {
		store.Publish(c)
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func TestTrail(t *testing.T) {
	t.Parallel()
	const services = "api billing db web"
	for name, c := range map[string]struct {
		fallback      intention.Action
		before, after string
		services      string // after; empty: the same
		want          []string
	}{
		"gained": {after: "web=>api:allow@i.hcl:3", want: []string{`msg="intentions changed" audit=intention change=2 destination=api gained=web origin=i.hcl:3`}},
		"lost":   {before: "web=>api:allow@i.hcl:3", want: []string{`msg="intentions changed" audit=intention change=2 destination=api lost=web origin=i.hcl:3`}},
		"several": {
			before: "web=>api:allow@i.hcl:3 db=>api:deny@i.hcl:4 billing=>db:allow@i.hcl:9", after: "web=>api:deny@i.hcl:3 db=>api:allow@i.hcl:4 billing=>api:allow@i.hcl:5",
			want: []string{
				`msg="intentions changed" audit=intention change=2 destination=api gained="billing, db" lost=web origin=i.hcl:5`,
				`msg="intentions changed" audit=intention change=2 destination=db lost=billing origin=i.hcl:9`,
			},
		},
		"what changes nothing": {
			before: "web=>api:allow@i.hcl:3", after: "web=>api:allow@i.hcl:3 db=>api:deny@i.hcl:4",
			want: []string{`msg="intentions changed" audit=intention change=2 destination=api origin=i.hcl:4`},
		},
		"lines that moved": {before: "web=>api:allow@i.hcl:3", after: "web=>api:allow@i.hcl:4"},
		"everybody": {
			before: "*=>api:allow@i.hcl:3", after: "*=>api:deny@i.hcl:3 web=>api:allow@i.hcl:4",
			want: []string{`msg="intentions changed" audit=intention change=2 destination=api lost=* origin=i.hcl:3`},
		},
		"all destinations, of which some say otherwise": {
			before: "web=>*:allow@all.hcl:3 web=>api:allow@i.hcl:3 db=>billing:allow@b.hcl:1", after: "web=>*:deny@all.hcl:3 web=>api:allow@i.hcl:3 db=>billing:allow@b.hcl:1",
			want: []string{
				`msg="intentions changed" audit=intention change=2 destination=* lost=web origin=all.hcl:3`,
				`msg="intentions changed" audit=intention change=2 destination=billing lost=web origin=b.hcl:1`,
			},
		},
		"by default allowed": {
			fallback: intention.Allow, after: "web=>api:deny@i.hcl:3 db=>api:allow@i.hcl:4",
			want: []string{`msg="intentions changed" audit=intention change=2 destination=api lost=web origin=i.hcl:3`},
		},
		"a destination that nobody knows": {
			after: "web=>queue:allow@i.hcl:3", want: []string{`msg="intentions changed" audit=intention change=2 destination=queue gained=web origin=i.hcl:3`},
		},
		"a service that comes, of which something was said": {
			before: "web=>queue:allow@i.hcl:3", after: "web=>queue:allow@i.hcl:3", services: services + " queue@q.hcl:1",
			want: []string{`msg=registration audit=registration change=2 proxy=queue-sidecar-proxy service=queue status=added origin=q.hcl:1`},
		},
		"registrations": {
			services: "api@a.hcl:7 db web",
			want:     []string{`msg=registration audit=registration change=2 proxy=billing-sidecar-proxy service=billing status=removed`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			after := c.services
			if after == "" {
				after = services
			}
			got := lines(t, nil, mesh(c.fallback, services, c.before), mesh(c.fallback, after, c.after))
			want := append([]string{fmt.Sprintf(`msg="audit begins" change=1 proxies=4 intentions=%d`, strings.Count(c.before, "=>"))}, c.want...)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTrailChangedRegistration: what a registration says, not where.
func TestTrailChangedRegistration(t *testing.T) {
	t.Parallel()
	moved, changed := mesh(intention.Deny, "api@a.hcl:7", ""), mesh(intention.Deny, "api@a.hcl:7", "")
	moved.Proxies[0].Inbound.LocalOrigin, changed.Proxies[0].Inbound.LocalOrigin = "a.hcl:5", "a.hcl:5"
	changed.Proxies[0].Inbound.Port = 20001
	got := lines(t, nil, mesh(intention.Deny, "api@a.hcl:1", ""), moved, changed)
	want := []string{
		`msg="audit begins" change=1 proxies=1 intentions=0`,
		`msg=registration audit=registration change=3 proxy=api-sidecar-proxy service=api status=changed origin=a.hcl:7`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// TestTrailInstances: applications that need no sidecar, and what a registration says of them.
func TestTrailInstances(t *testing.T) {
	t.Parallel()
	with := func(all ...catalog.Registration) catalog.Contents {
		c := mesh(intention.Deny, "", "")
		for _, r := range all {
			r.Service = identity.NewName("db")
			c.Registrations = append(c.Registrations, &r)
		}
		c.Sort()
		return c
	}
	native := catalog.Registration{ID: "db-1", Native: true, Port: 8443, Origin: "db.hcl:1"}
	moved, elsewhere, nobody := native, native, native
	moved.Origin, moved.Status = "db.hcl:9", "critical"
	elsewhere.Port = 8444
	nobody.Native = false
	named := catalog.Registration{ID: "db-2", Meta: map[string]string{catalog.MetaSelectors: "unix:uid:1000"}}
	other := catalog.Registration{ID: "db-2", Meta: map[string]string{catalog.MetaSelectors: "unix:uid:0"}}
	got := lines(t, nil, with(), with(native), with(moved), with(elsewhere), with(nobody), with(native), with(named), with(other), with())
	want := []string{
		`msg="audit begins" change=1 proxies=0 intentions=0`,
		`msg=registration audit=registration change=2 instance=db-1 service=db status=added origin=db.hcl:1`,
		`msg=registration audit=registration change=4 instance=db-1 service=db status=changed origin=db.hcl:1`,
		`msg=registration audit=registration change=5 instance=db-1 service=db status=removed origin=db.hcl:1`,
		`msg=registration audit=registration change=6 instance=db-1 service=db status=added origin=db.hcl:1`,
		`msg=registration audit=registration change=7 instance=db-2 service=db status=added`,
		`msg=registration audit=registration change=7 instance=db-1 service=db status=removed origin=db.hcl:1`,
		`msg=registration audit=registration change=8 instance=db-2 service=db status=changed`,
		`msg=registration audit=registration change=9 instance=db-2 service=db status=removed`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// TestTrailBegins: what a source says bit by bit when it starts is no change.
func TestTrailBegins(t *testing.T) {
	t.Parallel()
	calls := 0
	ready := func() bool { calls++; return calls > 1 }
	got := lines(t, ready, mesh(intention.Deny, "api", ""), mesh(intention.Deny, "api web", "web=>api:allow"), mesh(intention.Deny, "api web", ""))
	want := []string{
		`msg="audit begins" change=2 proxies=2 intentions=1`,
		`msg="intentions changed" audit=intention change=3 destination=api lost=web`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// TestTrailIsBounded: by names of a line, and lines of a change.
func TestTrailIsBounded(t *testing.T) {
	t.Parallel()
	var sources, destinations strings.Builder
	for n := range 25 {
		fmt.Fprintf(&sources, "s%02d=>api:allow ", n)
	}
	got := lines(t, nil, mesh(intention.Deny, "api", ""), mesh(intention.Deny, "api", sources.String()))
	if want := "s18, s19 and 5 more"; !strings.Contains(got[1], want) {
		t.Errorf("25 names: %s, want %q", got[1], want)
	}
	for n := range 150 {
		fmt.Fprintf(&destinations, "web=>d%03d:allow ", n)
	}
	got = lines(t, nil, mesh(intention.Deny, "api", ""), mesh(intention.Deny, "api", destinations.String()))
	if want := `msg="intentions changed of more destinations" audit=intention change=2 count=50`; len(got) != 102 || got[101] != want {
		t.Errorf("150 destinations: %d lines, the last: %s, want 102, and %s", len(got), got[len(got)-1], want)
	}
}
