package identity_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const td = "11111111-2222-3333-4444-555555555555.consul"

func service(partition, namespace, dc, name string) identity.Service {
	return identity.Service{
		TrustDomain: spiffeid.RequireTrustDomainFromString(td),
		Datacenter:  dc,
		Name:        identity.Name{Partition: partition, Namespace: namespace, Service: name},
	}
}

// names of one identity each, all in one row: what a certificate says, what a dialler says, what
// logs and secrets say.
func TestNames(t *testing.T) {
	tests := []struct {
		id                          identity.Service
		uri, sni, text, leaf, peers string
	}{
		{
			service("default", "default", "dc1", "web"),
			"spiffe://" + td + "/ns/default/dc/dc1/svc/web", "web.default.dc1.internal." + td, "web", "leaf/web", "peers/web",
		},
		{
			service("default", "default", "eu.west-1", "Web_1.x-Y"),
			"spiffe://" + td + "/ns/default/dc/eu.west-1/svc/Web_1.x-Y", "Web_1.x-Y.default.eu.west-1.internal." + td, "Web_1.x-Y", "leaf/Web_1.x-Y", "peers/Web_1.x-Y",
		},
		{
			service("default", "team", "dc1", "web"),
			"spiffe://" + td + "/ns/team/dc/dc1/svc/web", "web.team.dc1.internal." + td, "default/team/web", "leaf/default/team/web", "peers/default/team/web",
		},
		{
			service("p", "team", "dc1", "web"),
			"spiffe://" + td + "/ap/p/ns/team/dc/dc1/svc/web", "web.team.p.dc1.internal-v1." + td, "p/team/web", "leaf/p/team/web", "peers/p/team/web",
		},
	}
	for _, test := range tests {
		t.Run(test.uri, func(t *testing.T) {
			got := []string{test.id.String(), test.id.ID().String(), test.id.SNI(), test.id.Name.String(), test.id.LeafSecret(), test.id.PeersSecret()}
			if diff := cmp.Diff([]string{test.uri, test.uri, test.sni, test.text, test.leaf, test.peers}, got); diff != "" {
				t.Errorf("names of the identity (-want +got):\n%s", diff)
			}
			if err := test.id.Check(); err != nil {
				t.Errorf("Check: %v", err)
			}
			back, err := identity.ParseURI(test.uri)
			if err != nil || back != test.id {
				t.Errorf("ParseURI = %#v, %v, want %#v", back, err, test.id)
			}
		})
	}
}

// TestParseURIRefuses goes through what looks like an identity to somebody, and is none.
func TestParseURIRefuses(t *testing.T) {
	const ok = "spiffe://" + td + "/ns/default/dc/dc1/svc/web"
	if _, err := identity.ParseURI(ok); err != nil {
		t.Fatal(err)
	}
	// Well-formed SPIFFE IDs that are not a service's.
	for _, uri := range []string{
		"spiffe://" + td,
		"spiffe://" + td + "/ns",
		"spiffe://" + td + "/ns/default",
		"spiffe://" + td + "/ns/default/dc/dc1",
		"spiffe://" + td + "/ns/default/dc/dc1/svc",
		"spiffe://" + td + "/ns/default/dc/dc1/web",
		"spiffe://" + td + "/ns/default/svc/web/dc/dc1",
		"spiffe://" + td + "/dc/dc1/ns/default/svc/web",
		"spiffe://" + td + "/NS/default/dc/dc1/svc/web",
		"spiffe://" + td + "/x" + strings.TrimPrefix(ok, "spiffe://"+td),
		ok + "/x",
		"spiffe://" + td + "/ap/default/ns/default/dc/dc1/svc/web",
		"spiffe://" + td + "/ap/p/ap/q/ns/default/dc/dc1/svc/web",
		"spiffe://" + td + "/ap/p/dc/dc1/svc/web",
		"spiffe://" + td + "/ap",
		"spiffe://" + td + "/ap/p",
		"spiffe://" + td + "/agent/client/dc/dc1/id/node-1",
		"spiffe://" + td + "/agent/server/dc/dc1",
		"spiffe://" + td + "/gateway/mesh/dc/dc1",
		"spiffe://" + td + "/ap/p/gateway/mesh/dc/dc1",
		"spiffe://" + td + "/sallyport/xds",
	} {
		if id, err := identity.ParseURI(uri); !says(err, notService) || id != (identity.Service{}) {
			t.Errorf("ParseURI(%q) = %#v, %v, want that it is no service", uri, id, err)
		}
	}
	// Not SPIFFE IDs at all.
	for _, uri := range []string{
		"",
		" " + ok,
		ok + " ",
		ok + "\n",
		ok + "\x00",
		ok + "/",
		ok + "?x",
		ok + "#x",
		ok + "*",
		"SPIFFE" + strings.TrimPrefix(ok, "spiffe"),
		"Spiffe" + strings.TrimPrefix(ok, "spiffe"),
		"https" + strings.TrimPrefix(ok, "spiffe"),
		"spiffe:/" + td + "/ns/default/dc/dc1/svc/web",
		"spiffe:///ns/default/dc/dc1/svc/web",
		"//" + td + "/ns/default/dc/dc1/svc/web",
		"/ns/default/dc/dc1/svc/web",
		strings.ToUpper("spiffe://"+td) + "/ns/default/dc/dc1/svc/web",
		"spiffe://" + strings.ToUpper(td) + "/ns/default/dc/dc1/svc/web",
		"spiffe://" + td + ":8443/ns/default/dc/dc1/svc/web",
		"spiffe://user@" + td + "/ns/default/dc/dc1/svc/web",
		"spiffe://" + td + "//ns/default/dc/dc1/svc/web",
		"spiffe://" + td + "/ns/default/dc/dc1//svc/web",
		"spiffe://" + td + "/ns//dc/dc1/svc/web",
		"spiffe://" + td + "/ns/default/dc/dc1/svc//",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/./web",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/x/../web",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/..",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/.",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/web%2fx",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/%77eb",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/we b",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/web,api",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/web;x",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/wеb", // a Cyrillic е
		"spiffe://" + td + "/ns/default/dc/dc1/svc/\xff",
		`spiffe://` + td + `\ns\default\dc\dc1\svc\web`,
		"CN=" + ok,
		"URI:" + ok,
	} {
		if id, err := identity.ParseURI(uri); err == nil || says(err, notService) || id != (identity.Service{}) {
			t.Errorf("ParseURI(%q) = %#v, %v, want an error of SPIFFE's", uri, id, err)
		}
	}
}

// TestOtherTrustDomain demands that what is another trust domain is not taken for ours.
func TestOtherTrustDomain(t *testing.T) {
	ours := service("default", "default", "dc1", "web")
	for _, other := range []string{td + ".", td + ".evil", "x" + td, strings.Replace(td, ".", "x", 1), "other.consul"} {
		id, err := identity.ParseURI("spiffe://" + other + "/ns/default/dc/dc1/svc/web")
		if err == nil && (id == ours || id.TrustDomain == ours.TrustDomain) {
			t.Errorf("%q is taken for %q", other, td)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, segment := range []string{"web", "Web_1.x-Y", "_", "-", "...", ".a", "a.", "1", strings.Repeat("a", 200)} {
		if err := identity.NewName(segment).Check(); err != nil {
			t.Errorf("Check(%q): %v", segment, err)
		}
		if err := identity.CheckDatacenter(segment); err != nil {
			t.Errorf("CheckDatacenter(%q): %v", segment, err)
		}
	}
	for _, segment := range []string{"", ".", "..", "a b", "a/b", "a%2fb", "*", "web*", "é", "a\x00", "a\n", "a,b", "a:b", "a~b", "a+b", "a;b"} {
		if err := identity.NewName(segment).Check(); !says(err, "not a SPIFFE path segment") {
			t.Errorf("Check(%q) = %v, want that it is no segment", segment, err)
		}
		for _, n := range []identity.Name{{Partition: segment, Namespace: "default", Service: "web"}, {Partition: "default", Namespace: segment, Service: "web"}} {
			if err := n.Check(); !says(err, "not a SPIFFE path segment") {
				t.Errorf("Check(%#v) = %v, want that it is no segment", n, err)
			}
		}
		if err := identity.CheckDatacenter(segment); !says(err, "not a SPIFFE path segment") {
			t.Errorf("CheckDatacenter(%q) = %v, want that it is no segment", segment, err)
		}
		for _, s := range []identity.Service{service("default", "default", "dc1", segment), service("default", "default", segment, "web"), service("default", segment, "dc1", "web"), service(segment, "default", "dc1", "web")} {
			if !s.ID().IsZero() || s.String() != "" {
				t.Errorf("%#v has the ID %q", s, s)
			}
		}
	}
	for b := range 256 { // each byte alone: what Check allows is what SPIFFE allows
		segment := "x" + string([]byte{byte(b)}) + "x"
		if got, want := identity.NewName(segment).Check() == nil, spiffeid.ValidatePathSegment(segment) == nil; got != want {
			t.Errorf("Check(%q) allows: %t, SPIFFE allows: %t", segment, got, want)
		}
	}
}

// TestLongIDs: an ID that SPIFFE does not allow is nobody's, however its parts look.
func TestLongIDs(t *testing.T) {
	prefix := "spiffe://" + td + "/ns/default/dc/dc1/svc/"
	for n, want := range map[int]bool{2048: true, 2049: false} {
		name := strings.Repeat("n", n-len(prefix))
		s, err := identity.ParseURI(prefix + name)
		if (err == nil) != want || want && s.Service != name || !want && (s != identity.Service{} || !says(err, "a SPIFFE ID has 2048 bytes at most")) {
			t.Errorf("ParseURI of %d bytes: %.40q, %v", n, s.Service, err)
		}
		if got := service("default", "default", "dc1", name); !got.ID().IsZero() != want {
			t.Errorf("%d bytes are an ID: %v, want %v", n, !want, want)
		}
	}
}

func TestWildcard(t *testing.T) {
	if !identity.NewName(identity.Wildcard).IsWildcard() || identity.NewName("web").IsWildcard() || (identity.Name{}).IsWildcard() {
		t.Error("IsWildcard")
	}
	if s := service("default", "default", "dc1", identity.Wildcard); !s.ID().IsZero() {
		t.Errorf("the wildcard has the identity %q", s)
	}
	if !(identity.Service{}).ID().IsZero() {
		t.Error("the zero Service has an identity")
	}
}

// TestDistinct demands that no two identities share a name in any form by which they are told
// apart.
func TestDistinct(t *testing.T) {
	segments := []string{"default", "a", "a.b", "b", "svc", "ns", "dc"}
	seen := map[string]identity.Service{}
	for _, p := range segments {
		for _, ns := range segments {
			for _, dc := range segments {
				for _, name := range segments {
					s := service(p, ns, dc, name)
					if other, ok := seen[s.String()]; ok {
						t.Errorf("%#v and %#v are both %s", s, other, s)
					}
					seen[s.String()] = s
				}
			}
		}
	}
}

func TestParseAllocates(t *testing.T) {
	for _, uri := range []string{"spiffe://" + td + "/ns/default/dc/dc1/svc/web", "spiffe://" + td + "/ap/p/ns/team/dc/dc1/svc/web"} {
		if n := testing.AllocsPerRun(100, func() {
			if _, err := identity.ParseURI(uri); err != nil {
				t.Error(err)
			}
		}); n > 0 {
			t.Errorf("ParseURI(%q) allocates %v times", uri, n)
		}
	}
}

func BenchmarkParseURI(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := identity.ParseURI("spiffe://" + td + "/ns/default/dc/dc1/svc/web"); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzParse demands that whatever is accepted is a SPIFFE ID to go-spiffe too, and that it is the
// only spelling of that identity.
func FuzzParse(f *testing.F) {
	for _, uri := range []string{
		"spiffe://" + td + "/ns/default/dc/dc1/svc/web",
		"spiffe://" + td + "/ap/p/ns/team/dc/eu.west-1/svc/Web_1",
		"spiffe://" + td + "/ap/default/ns/default/dc/dc1/svc/web",
		"spiffe://" + td + "/agent/client/dc/dc1/id/n",
		"spiffe://" + td + "/ns/default/dc/dc1/svc/web%2f",
		"spiffe://a/ns/b/dc/c/svc/d/e",
		"",
	} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		s, err := identity.ParseURI(uri)
		if err != nil {
			if s != (identity.Service{}) {
				t.Fatalf("ParseURI(%q) = %#v and %v", uri, s, err)
			}
			return
		}
		id, err := spiffeid.FromString(uri)
		if err != nil {
			t.Fatalf("ParseURI accepts %q, go-spiffe does not: %v", uri, err)
		}
		if s.String() != uri || s.ID() != id {
			t.Fatalf("ParseURI(%q) = %#v, which is %q", uri, s, s)
		}
		if err := s.Check(); err != nil {
			t.Fatalf("ParseURI(%q): %v", uri, err)
		}
		if err := identity.CheckDatacenter(s.Datacenter); err != nil {
			t.Fatalf("ParseURI(%q): %v", uri, err)
		}
	})
}

const notService = "not the identity of a service"

func says(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }
