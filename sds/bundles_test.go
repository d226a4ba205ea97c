package sds_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/testing/protocmp"
)

func exact(names ...string) []*tlsv3.SubjectAltNameMatcher {
	var sans []*tlsv3.SubjectAltNameMatcher
	for _, n := range names {
		sans = append(sans, &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_URI,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: service(n).String()}},
		})
	}
	return sans
}

func rootPEM(pkis ...*pki) string {
	var b strings.Builder
	for _, p := range pkis {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.root.cert.Raw}))
	}
	return b.String()
}

func TestValidation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		f.source.giveRoots(t, bundle(p))
		b, ok := f.Bundles()
		if !ok || b.TrustDomain() != testDomain {
			t.Fatalf("Bundles() = %v, %t", b, ok)
		}
		sans := exact("web", "api")
		r, err := b.Validation("peers/db", sans, "v1")
		if err != nil {
			t.Fatal(err)
		}
		want := &tlsv3.Secret{Name: "peers/db", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa:                 &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: rootPEM(p)}},
			MatchTypedSubjectAltNames: sans,
		}}}
		if diff := cmp.Diff(want, secretOf(t, r), protocmp.Transform()); diff != "" || r.GetName() != "peers/db" {
			t.Errorf("resource %s (-want +got):\n%s", r.GetName(), diff)
		}
		again, err := b.Validation("peers/db", exact("web", "api"), "v1")
		if err != nil || again != r {
			t.Errorf("the same name and version gave another resource: %v", err)
		}
		other, err := b.Validation("peers/db", exact("web"), "v2")
		if err != nil || other == r || other.GetVersion() == r.GetVersion() {
			t.Errorf("another version gave the same resource: %v", err)
		}
		roots, err := b.Validation(identity.RootsSecret, nil, "v0")
		if err != nil || secretOf(t, roots).GetValidationContext().GetTrustedCa().GetInlineString() != rootPEM(p) {
			t.Errorf("roots: %v", err)
		}
		runtime.KeepAlive(r)
	})
}

func TestValidationErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		f.source.giveRoots(t, bundle(p))
		b, _ := f.Bundles()
		for _, tt := range []struct {
			name, secret, version string
			sans                  []*tlsv3.SubjectAltNameMatcher
			want                  string
		}{
			{"nobody named", "peers/web", "v", nil, "validation context peers/web: an empty list of peers would let in everybody"},
			{"an empty list", "identities", "v", exact(), "validation context identities: an empty list of peers would let in everybody"},
			{"no name", "", "v", exact("a"), "validation context without a name"},
			{"no version", "peers/web", "", exact("a"), "validation context peers/web: no version"},
			{"roots with a list", identity.RootsSecret, "v", exact("a"), "validation context roots: its users say who passes, so it has no list of its own"},
			{"a matcher of nothing", "peers/web", "v", []*tlsv3.SubjectAltNameMatcher{{SanType: tlsv3.SubjectAltNameMatcher_URI}}, "secret peers/web: invalid Secret.ValidationContext"},
			{"a nil matcher", "peers/web", "v", []*tlsv3.SubjectAltNameMatcher{nil}, "validation context peers/web: the list of peers has an empty entry"},
		} {
			r, err := b.Validation(tt.secret, tt.sans, tt.version)
			if r != nil || err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("%s: Validation() = %v, %v, want error %s", tt.name, r, err, tt.want)
			}
		}
	})
}

// TestValidationIsDeterministic: order and repetition of roots change nothing, nor does a restart.
func TestValidationIsDeterministic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newPKI(t), newPKI(t), newPKI(t)
		var want []byte
		for _, order := range [][]*pki{{a, b, c}, {c, b, a}, {b, c, a, b}} {
			f := start(t)
			authorities := x509bundle.FromX509Authorities(testDomain, nil)
			var certs []*x509.Certificate
			for _, p := range order {
				certs = append(certs, p.root.cert)
			}
			authorities.SetX509Authorities(certs)
			f.source.giveRoots(t, x509bundle.NewSet(authorities))
			bundles, _ := f.Bundles()
			r, err := bundles.Validation("identities", exact("web"), "v")
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = r.GetResource().GetValue()
			}
			if !bytes.Equal(r.GetResource().GetValue(), want) {
				t.Error("the order of the roots changes the secret")
			}
			f.stop()
		}
		if n := strings.Count(string(want), "BEGIN CERTIFICATE"); n != 3 {
			t.Errorf("%d roots in the secret, want 3", n)
		}
	})
}

// TestValidationForgets: what nobody holds is forgotten, what somebody holds is not.
func TestValidationForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		f.source.giveRoots(t, bundle(p))
		b, _ := f.Bundles()
		sans := exact("web")
		held, err := b.Validation("peers/db", sans, "held")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20_000 {
			if i%1000 == 0 {
				runtime.GC()
			}
			if _, err := b.Validation("peers/db", sans, strconv.Itoa(i)); err != nil {
				t.Fatal(err)
			}
		}
		if n := sds.Remembered(b); n > 4000 {
			t.Errorf("%d of 20,000 versions are remembered, of which one is in use", n)
		}
		if again, err := b.Validation("peers/db", sans, "held"); err != nil || again != held {
			t.Errorf("what is in use was forgotten: %v", err)
		}
		runtime.KeepAlive(held)
	})
}

func TestValidationConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		f.source.giveRoots(t, bundle(p))
		b, _ := f.Bundles()
		sans := exact("web")
		var all sync.WaitGroup
		got := make([]*discoveryv3.Resource, 64)
		for i := range got {
			all.Go(func() {
				r, err := b.Validation(fmt.Sprintf("peers/%d", i%4), sans, "v")
				if err != nil {
					t.Error(err)
				}
				got[i] = r
			})
		}
		all.Wait()
		for i, r := range got {
			if r != got[i%4] {
				t.Fatalf("peers/%d was made twice", i%4)
			}
		}
	})
}

// TestRefusedBundles: roots that would mean another thing than they should are refused, and the last good ones stay.
func TestRefusedBundles(t *testing.T) {
	other := spiffeid.RequireTrustDomainFromString("other.example")
	for _, tt := range []struct {
		name string
		make func(t *testing.T, p *pki) *x509bundle.Set
		want string
	}{
		{"nil", func(*testing.T, *pki) *x509bundle.Set { return nil }, "no roots"},
		{"empty", func(*testing.T, *pki) *x509bundle.Set { return x509bundle.NewSet() }, "no roots"},
		{"a trust domain without roots", func(*testing.T, *pki) *x509bundle.Set { return x509bundle.NewSet(x509bundle.New(testDomain)) }, "none of 0 is valid"},
		{"two trust domains", func(t *testing.T, p *pki) *x509bundle.Set {
			t.Helper()
			s := bundle(p)
			s.Add(x509bundle.FromX509Authorities(other, []*x509.Certificate{newPKI(t).root.cert}))
			return s
		}, "roots of 2 trust domains"},
		{"a leaf", func(t *testing.T, p *pki) *x509bundle.Set {
			t.Helper()
			return x509bundle.NewSet(x509bundle.FromX509Authorities(testDomain, []*x509.Certificate{p.root.cert, p.leaf(t, "web", nil).Certificates[0]}))
		}, "is not a CA's"},
		{"a CA that signs no certificates", func(t *testing.T, _ *pki) *x509bundle.Set {
			t.Helper()
			return bundle(&pki{root: sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "r"}, IsCA: true, KeyUsage: x509.KeyUsageCRLSign}, nil)})
		}, "is not a CA's"},
		{"expired", func(t *testing.T, _ *pki) *x509bundle.Set {
			t.Helper()
			return bundle(&pki{root: sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "r"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(-time.Second)}, nil)})
		}, "none of 1 is valid at 2000-01-01T00:00:00Z: is the clock right?"},
		{"of the future", func(t *testing.T, _ *pki) *x509bundle.Set {
			t.Helper()
			return bundle(&pki{root: sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "r"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(time.Second)}, nil)})
		}, "none of 1 is valid at 2000-01-01T00:00:00Z: is the clock right?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, p := start(t), newPKI(t)
				defer f.stop()
				f.source.giveRoots(t, tt.make(t, p))
				if _, ok := f.Bundles(); ok {
					t.Error("it was taken as the first")
				}
				f.source.giveRoots(t, bundle(p))
				good, ok := f.Bundles()
				if !ok {
					t.Fatal("good roots after bad ones were not taken")
				}
				changed := f.BundlesChanged()
				f.source.giveRoots(t, tt.make(t, p))
				if now, _ := f.Bundles(); now != good {
					t.Error("it took the place of good roots")
				}
				select {
				case <-changed:
					t.Error("it woke those who wait for new roots")
				default:
				}
				if n := f.rejected(t, "bundle"); n != 2 {
					t.Errorf("%v bundles counted as refused, want 2", n)
				}
				if !strings.Contains(f.log.String(), tt.want) {
					t.Errorf("log\n%swant %s", f.log, tt.want)
				}
			})
		})
	}
}

func TestBundlesChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p, q := start(t), newPKI(t), newPKI(t)
		defer f.stop()
		closed := func(c <-chan struct{}) bool {
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		first := f.BundlesChanged()
		f.source.giveRoots(t, bundle(p))
		if !closed(first) {
			t.Error("the first roots woke nobody")
		}
		second := f.BundlesChanged()
		f.source.giveRoots(t, bundle(p))
		if closed(second) {
			t.Error("the same roots again made news")
		}
		f.source.giveRoots(t, bundle(p, q))
		if !closed(second) {
			t.Error("a new root woke nobody")
		}
	})
}
