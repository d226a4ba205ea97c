package acceptance

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/issuance"
	"github.com/sallyport/sallyport/sds"
)

// TestCrash starts after a crash: who may have been given something that was not written has accepted nothing.
func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.proxies = []identity.ProxyID{"web", "api"}
		m.now = m.both
		r, _ := m.open()
		end := running(t, r)
		m.want(r, "", "") // a mesh that has just begun
		s := r.Open(proxy("web"))
		first := m.leaf("web", true, time.Hour)
		s.Give(m.both, first)
		s.Accept(m.both, []*sds.SVID{first})
		time.Sleep(time.Second)
		synctest.Wait()
		m.issued = []issuance.Leaf{{Caller: "uid 7", ID: "spiffe://mesh.test/svc/job", Ends: time.Now().Add(time.Hour)}}
		killed, _ := m.open()
		m.want(killed, "proxy api (not connected) 72h0m0s, uid 7 (not connected) 1h0m0s", "proxy api (not connected) 72h0m0s, uid 7 (not connected) 1h0m0s")
		if got := killed.Untold([]*x509.Certificate{m.next.Cert}); got[0].Reason != lost {
			t.Errorf("reason %q", got[0].Reason)
		}
		end()
		ended, _ := m.open()
		m.want(ended, "", "")
		again, _ := m.open() // a kill -9 before anything was written
		m.want(again, "proxy api (not connected) 72h0m0s, uid 7 (not connected) 1h0m0s", "proxy api (not connected) 72h0m0s, uid 7 (not connected) 1h0m0s")
		if err := os.Remove(m.path); err != nil {
			t.Fatal(err)
		}
		gone, _ := m.open()
		m.want(gone, "proxy api (not connected) 72h0m0s, proxy web (not connected) 72h0m0s, uid 7 (not connected) 1h0m0s",
			"proxy api (not connected) 72h0m0s, proxy web (not connected) 72h0m0s, uid 7 (not connected) 1h0m0s")
	})
}

// TestEndAfterCrash ends in order soon after a crash: what the crash took is still not known.
func TestEndAfterCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.proxies, m.now = []identity.ProxyID{"web"}, m.both
		r, _ := m.open()
		end := running(t, r)
		time.Sleep(time.Second)
		killed, _ := m.open()
		end() // of the process that was killed, which wrote nothing more; only its goroutines are to end
		time.Sleep(time.Second)
		end = running(t, killed)
		time.Sleep(71 * time.Hour)
		m.want(killed, "proxy web (not connected) 1h0m0s", "proxy web (not connected) 1h0m0s")
		end()
		ended, _ := m.open()
		m.want(ended, "proxy web (not connected) 1h0m0s", "proxy web (not connected) 1h0m0s")
		end = running(t, ended)
		time.Sleep(2 * time.Hour)
		m.want(ended, "", "")
		end()
		last, _ := m.open()
		m.want(last, "", "")
	})
}

// TestLongNames has as many identities as are told apart, of names as long as they can be, under two roots.
func TestLongNames(t *testing.T) {
	m := newMesh(t)
	m.now = m.both
	r, _ := m.open()
	end := running(t, r)
	for n := range maxLeafs {
		name := fmt.Sprint(strings.Repeat("long-", 90), n)
		for _, next := range []bool{false, true} {
			r.Open(app).Give(nil, m.leaf(name, next, time.Hour))
		}
	}
	end()
	other, log := m.open()
	if m.want(other, "uid 1000 (not connected) 1h0m0s", "uid 1000 (not connected) 1h0m0s"); log.Len() > 0 {
		t.Errorf("log: %s", log)
	}
}

// TestCrowd is one more holder than are kept: it is waited for though nothing is known of it.
func TestCrowd(t *testing.T) {
	m := newMesh(t)
	r, _ := m.open()
	leaf := m.leaf("web", false, time.Hour)
	for n := range maxHolders {
		r.FetchedLeaf(identity.Caller{Application: fmt.Sprint("uid ", n)}, leaf.Certificates)
	}
	if got := r.Untold(nil); len(got) != 0 {
		t.Fatalf("%d are waited for", len(got))
	}
	r.FetchedLeaf(identity.Caller{Application: "token one"}, leaf.Certificates)
	if got := text(r.Untold(nil)); got != "others (not connected) 72h0m0s" {
		t.Errorf("untold: %s", got)
	}
	late, _ := m.open() // of a stream
	for n := range maxHolders {
		late.FetchedLeaf(identity.Caller{Application: fmt.Sprint("uid ", n)}, leaf.Certificates)
	}
	late.Open(proxy("late")).Give(m.one, leaf)
	if got := text(late.Outdated(m.old.Cert)); got != "others (not connected) 72h0m0s" {
		t.Errorf("outdated: %s", got)
	}
}

// TestDamaged has a record whose lines are not what they were: nobody is taken for one who has accepted.
func TestDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.now, m.proxies = m.both, []identity.ProxyID{"web"}
		r, _ := m.open()
		end := running(t, r)
		s := r.Open(proxy("web"))
		first := m.leaf("web", true, time.Hour)
		s.Give(m.both, first)
		s.Accept(m.both, []*sds.SVID{first})
		end()
		whole, err := os.ReadFile(m.path)
		if err != nil || !bytes.Contains(whole, []byte(`"ended":true`)) {
			t.Fatalf("%s, %v", whole, err)
		}
		for n := range whole[:bytes.IndexByte(whole, '\n')] {
			damaged := bytes.Clone(whole)
			damaged[n] ^= 1 << (n % 8)
			if err := os.WriteFile(m.path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if bytes.EqualFold(damaged, whole) {
				continue
			}
			if r, log := m.open(); len(r.Untold([]*x509.Certificate{m.next.Cert})) != 1 || !strings.Contains(log.String(), "damaged") {
				t.Fatalf("byte %d: untold %v; log: %s", n, r.Untold([]*x509.Certificate{m.next.Cert}), log)
			}
		}
	})
}
