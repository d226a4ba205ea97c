package sds_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/sds"
)

// TestRoots: order and repetition change nothing, and the active root is the one that is named.
func TestRoots(t *testing.T) {
	a, b, c := newPKI(t), newPKI(t), newPKI(t)
	want := bundle(a, b, c).PEM()
	for _, p := range []*pki{a, b, c} {
		if strings.Count(want, p.root.PEM()) != 1 {
			t.Errorf("the roots are\n%swant each of them once", want)
		}
	}
	for _, order := range [][]*pki{{c, b, a}, {b, c, a, b}} {
		if got := bundle(order...); got.PEM() != want {
			t.Error("the order of the roots changes their text")
		} else if active, ok := got.Active(); !ok || active.Certificate != order[0].root.Cert {
			t.Errorf("the active root is %s", active.ID)
		}
	}
	for _, active := range []string{"", "2"} {
		roots := sds.NewRoots(testDomain, active, []sds.Root{{ID: "1", Certificate: a.root.Cert}})
		if _, ok := roots.Active(); ok {
			t.Errorf("%q is the active root of one that is called 1", active)
		}
	}
}

// TestRefusedRoots: roots that would mean another thing than they should are refused, and the last
// good ones stay.
func TestRefusedRoots(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, p *pki) *sds.Roots
		want string
	}{
		{"nil", func(*testing.T, *pki) *sds.Roots { return nil }, "no roots"},
		{"empty", func(*testing.T, *pki) *sds.Roots { return bundle() }, "no roots"},
		{"a leaf", func(t *testing.T, p *pki) *sds.Roots {
			t.Helper()
			return bundle(p, &pki{root: &testca.Pair{Cert: p.leaf(t, "web", nil).Certificates[0]}})
		}, "is not a CA's"},
		{"a CA that signs no certificates", func(t *testing.T, _ *pki) *sds.Roots {
			t.Helper()
			return bundle(&pki{root: testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "r"}, IsCA: true, KeyUsage: x509.KeyUsageCRLSign}, nil)})
		}, "is not a CA's"},
		{"expired", func(t *testing.T, _ *pki) *sds.Roots {
			t.Helper()
			return bundle(&pki{root: testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "r"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(-time.Second)}, nil)})
		}, "none of 1 is valid at 2000-01-01T00:00:00Z: is the clock right?"},
		{"of the future", func(t *testing.T, _ *pki) *sds.Roots {
			t.Helper()
			return bundle(&pki{root: testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "r"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(time.Second)}, nil)})
		}, "none of 1 is valid at 2000-01-01T00:00:00Z: is the clock right?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, p := start(t), newPKI(t)
				defer f.stop()
				f.source.giveRoots(t, tt.make(t, p))
				if _, ok := f.Roots(); ok {
					t.Error("it was taken as the first")
				}
				f.source.giveRoots(t, bundle(p))
				good, ok := f.Roots()
				if !ok {
					t.Fatal("good roots after bad ones were not taken")
				}
				changed := f.RootsChanged()
				f.source.giveRoots(t, tt.make(t, p))
				if now, _ := f.Roots(); now != good {
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

func TestRootsChanged(t *testing.T) {
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
		first := f.RootsChanged()
		f.source.giveRoots(t, bundle(p))
		if !closed(first) {
			t.Error("the first roots woke nobody")
		}
		second := f.RootsChanged()
		f.source.giveRoots(t, bundle(p))
		if closed(second) {
			t.Error("the same roots again made news")
		}
		f.source.giveRoots(t, bundle(p, q))
		if !closed(second) {
			t.Error("a new root woke nobody")
		}
		third := f.RootsChanged()
		f.source.giveRoots(t, bundle(q, p))
		if !closed(third) {
			t.Error("another active root woke nobody")
		}
	})
}
