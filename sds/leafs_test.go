package sds_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
)

// counter is a wake function that counts.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
}

func (c *counter) count() int {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func TestLeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		var woken counter
		l := f.Watch(identity.Caller{Proxy: "web-proxy", Token: "t"}, service("web"), woken.wake)
		defer l.Close()
		if l.SVID() != nil {
			t.Error("a leaf before there is a leaf")
		}
		svid := p.leaf(t, "web", nil)
		f.source.give(t, "tweb", svid)
		if l.SVID() != nil || woken.count() != 0 {
			t.Error("a secret that could not be verified, as there were no roots")
		}
		f.source.giveRoots(t, bundle(p))
		if l.SVID() != svid || woken.count() != 1 {
			t.Fatalf("leaf %t, woken %d times: want the leaf served once the roots came", l.SVID() != nil, woken.count())
		}
		if n := f.rejected(t, "leaf"); n != 0 {
			t.Errorf("%v leafs counted as refused", n)
		}

		f.source.give(t, "tweb", svid)
		if woken.count() != 1 || l.SVID() != svid {
			t.Error("the same leaf again made news")
		}
		f.source.give(t, "tweb", &sds.SVID{Certificates: svid.Certificates, PrivateKey: svid.PrivateKey})
		if woken.count() != 1 || l.SVID() != svid {
			t.Error("an equal leaf made news")
		}
		next := p.leaf(t, "web", nil)
		f.source.give(t, "tweb", next)
		if woken.count() != 2 || l.SVID() != next {
			t.Error("a new leaf was not served")
		}
		if got := f.source.callers; len(got) != 1 || got[0].Proxy != "web-proxy" || got[0].Token != "t" {
			t.Errorf("the source was asked by %v, want web-proxy", got)
		}
	})
}

// TestLeafOfTheFuture: the source's clock is ahead of ours. The leaf is served when its time comes,
// with nothing else happening.
func TestLeafOfTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		f.source.giveRoots(t, bundle(p))
		l := f.Watch(identity.Caller{}, service("web"), nil)
		defer l.Close()
		early := p.leaf(t, "web", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(9 * time.Minute) })
		f.source.give(t, "web", early)
		time.Sleep(9*time.Minute - time.Second)
		synctest.Wait()
		if l.SVID() != nil {
			t.Error("served before its time")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if l.SVID() != early {
			t.Error("not served when its time had come")
		}
		if n := f.rejected(t, "leaf"); n != 1 {
			t.Errorf("%v leafs counted as refused, want 1", n)
		}
	})
}

// TestNewRoot: a leaf of a CA that the bundle has not yet is served as soon as it has, and what the
// new bundle does not vouch for is not taken any more.
func TestNewRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, old, next := start(t), newPKI(t), newPKI(t)
		defer f.stop()
		l := f.Watch(identity.Caller{}, service("web"), nil)
		defer l.Close()
		f.source.giveRoots(t, bundle(old))
		first, second := old.leaf(t, "web", nil), next.leaf(t, "web", nil)
		f.source.give(t, "web", first)
		f.source.give(t, "web", second)
		if l.SVID() != first {
			t.Error("a leaf of an unknown CA took the place of a good one")
		}
		f.source.giveRoots(t, bundle(old, next))
		if l.SVID() != second {
			t.Error("the leaf was not looked at again when its root came")
		}
		f.source.giveRoots(t, bundle(next))
		f.source.give(t, "web", old.leaf(t, "web", nil))
		if l.SVID() != second {
			t.Error("a leaf of the CA that left was served")
		}
	})
}

func TestSharing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		f.source.giveRoots(t, bundle(p))
		var wa, wb, wc counter
		a := f.Watch(identity.Caller{Proxy: "1", Token: "x"}, service("web"), wa.wake)
		b := f.Watch(identity.Caller{Proxy: "2", Token: "x"}, service("web"), wb.wake)
		c := f.Watch(identity.Caller{Proxy: "1", Token: "y"}, service("web"), wc.wake)
		if x, y := f.source.count("xweb"), f.source.count("yweb"); x != 1 || y != 1 {
			t.Errorf("%d and %d watches, want one for each token", x, y)
		}
		f.source.give(t, "xweb", p.leaf(t, "web", nil))
		if a.SVID() == nil || a.SVID() != b.SVID() {
			t.Error("two with the same token and identity do not share a leaf")
		}
		if c.SVID() != nil || wc.count() != 0 {
			t.Error("the holder of another token was given the secret")
		}
		if wa.count() != 1 || wb.count() != 1 {
			t.Errorf("woken %d and %d times, want once each", wa.count(), wb.count())
		}
		late := f.Watch(identity.Caller{Proxy: "3", Token: "x"}, service("web"), nil)
		if late.SVID() != a.SVID() {
			t.Error("who comes late does not find the secret at once")
		}
		a.Close()
		a.Close()
		late.Close()
		if f.source.at("xweb") == nil {
			t.Fatal("the watch ended while somebody used it")
		}
		f.source.give(t, "xweb", p.leaf(t, "web", nil))
		if wa.count() != 1 || wb.count() != 2 {
			t.Errorf("woken %d and %d times, want 1 and 2", wa.count(), wb.count())
		}
		b.Close()
		if f.source.at("xweb") != nil || f.source.at("yweb") == nil {
			t.Error("the last Close did not end the watch, or ended another's")
		}
		if b.SVID() != nil || f.source.count("xweb") != 1 {
			t.Error("a leaf was asked for after Close")
		}
		again := f.Watch(identity.Caller{Token: "x"}, service("web"), nil)
		defer again.Close()
		if again.SVID() != nil || f.source.count("xweb") != 2 {
			t.Error("a leaf that nobody used was kept")
		}
		c.Close()
	})
}

// TestKeep: one caller's leafs end one by one.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		f.source.giveRoots(t, bundle(p))
		var woken counter
		l := f.Open(identity.Caller{Proxy: "p"}, woken.wake)
		defer l.Close()
		if !l.Expires().IsZero() {
			t.Error("there is an end without leafs")
		}
		var ends []time.Time
		for i, name := range []string{"a", "b"} {
			l.SVID(service(name))
			svid := p.leaf(t, name, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Duration(2-i) * time.Hour) })
			ends = append(ends, svid.Certificates[0].NotAfter)
			f.source.give(t, name, svid)
		}
		if !l.Expires().Equal(ends[1]) || woken.count() != 2 {
			t.Errorf("the first ends at %s, woken %d times, want %s and 2", l.Expires(), woken.count(), ends[1])
		}
		l.Keep(map[identity.Service]bool{service("a"): true})
		if f.source.at("a") == nil || f.source.at("b") != nil || !l.Expires().Equal(ends[0]) {
			t.Error("Keep ended the use of another leaf than b's")
		}
	})
}

// TestWakeMayCallBack: no lock is held while wake is called.
func TestWakeMayCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		f.source.giveRoots(t, bundle(p))
		var l *leaf
		done := false
		l = f.Watch(identity.Caller{}, service("web"), func() {
			other := f.Watch(identity.Caller{}, service("db"), nil)
			_, _ = l.SVID(), fmt.Sprint(f.Credentials)
			other.Close()
			l.Close()
			done = true
		})
		f.source.give(t, "web", p.leaf(t, "web", nil))
		if !done || f.source.at("web") != nil {
			t.Error("wake did not run to its end")
		}
	})
}

// TestRetry: a watch that ends is begun again, later each time, and what it gave stays.
func TestRetry(t *testing.T) {
	for _, name := range []string{"web", "roots"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, p := start(t), newPKI(t)
				defer f.stop()
				l := f.Watch(identity.Caller{}, service("web"), nil)
				defer l.Close()
				f.source.giveRoots(t, bundle(p))
				svid := p.leaf(t, "web", nil)
				f.source.give(t, "web", svid)
				var waits []time.Duration
				for range 9 {
					f.source.fail(t, name, errors.New("no connection"))
					if l.SVID() != svid {
						t.Fatal("the last good leaf was dropped")
					}
					if _, ok := f.Roots(); !ok {
						t.Fatal("the last good roots were dropped")
					}
					begin, calls := time.Now(), f.source.count(name)
					for f.source.count(name) == calls {
						time.Sleep(50 * time.Millisecond)
					}
					waits = append(waits, time.Since(begin))
				}
				limit := 2 * time.Second
				for i, w := range waits {
					if w < limit/2 || w > limit+100*time.Millisecond {
						t.Errorf("wait %d was %s, want %s to %s", i+1, w, limit/2, limit)
					}
					limit = min(2*limit, time.Minute)
				}
				if !slices.IsSorted(waits[:4]) {
					t.Errorf("waits %v do not grow", waits)
				}
				// Something came: the waiting begins anew.
				if name == "web" {
					f.source.give(t, name, svid)
				} else {
					f.source.giveRoots(t, bundle(p))
				}
				f.source.fail(t, name, nil)
				calls := f.source.count(name)
				time.Sleep(2100 * time.Millisecond)
				if f.source.count(name) != calls+1 {
					t.Error("the waiting did not begin anew after a success")
				}
				for _, want := range []string{"no connection", "the source ended it without an error"} {
					if !strings.Contains(f.log.String(), want) {
						t.Errorf("log\n%swant %s", f.log, want)
					}
				}
			})
		})
	}
}

// TestBeforeAndAfterRun: Watch and Close are safe at any time, and Run goes on where the last one
// ended.
func TestBeforeAndAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		f.stop()
		if f.source.at(rootsFeed) != nil {
			t.Error("the roots are watched after Run returned")
		}
		early, gone := f.Watch(identity.Caller{}, service("web"), nil), f.Watch(identity.Caller{}, service("db"), nil)
		gone.Close()
		if f.source.count("web") != 0 {
			t.Error("watched while Run does not run")
		}
		f.run(t)
		if f.source.count("web") != 1 || f.source.count("db") != 0 {
			t.Errorf("%d and %d watches of web and db, want 1 and 0", f.source.count("web"), f.source.count("db"))
		}
		if err := f.Run(t.Context()); err == nil || err.Error() != "sds: Run runs already" {
			t.Errorf("a second Run: error %v", err)
		}
		f.source.giveRoots(t, bundle(p))
		f.source.give(t, "web", p.leaf(t, "web", nil))
		secret := early.SVID()
		f.stop()
		if early.SVID() != secret || secret == nil {
			t.Error("the secret went with Run")
		}
		if f.source.at("web") != nil {
			t.Error("watched after Run returned")
		}
		f.run(t)
		next := p.leaf(t, "web", nil)
		f.source.give(t, "web", next)
		if early.SVID() != next {
			t.Error("not watched by the next Run")
		}
		f.stop()
		early.Close()
	})
}

func TestExpiryMetric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		const expiry = "sallyport_leaf_expiry_timestamp_seconds"
		if got := metric(t, f.registry, expiry, ""); !math.IsInf(got, 1) {
			t.Errorf("%s = %v without leafs, want +Inf", expiry, got)
		}
		f.source.giveRoots(t, bundle(p))
		var ends []time.Time
		var leafs []*leaf
		for i, name := range []string{"a", "b", "c"} {
			leafs = append(leafs, f.Watch(identity.Caller{}, service(name), nil))
			svid := p.leaf(t, name, func(c *x509.Certificate) {
				c.NotAfter = time.Now().Add([]time.Duration{3 * time.Hour, time.Hour, 2 * time.Hour}[i])
			})
			ends = append(ends, svid.Certificates[0].NotAfter)
			f.source.give(t, name, svid)
		}
		if got := metric(t, f.registry, expiry, ""); got != float64(ends[1].Unix()) {
			t.Errorf("%s = %v, want b's end %d", expiry, got, ends[1].Unix())
		}
		leafs[1].Close()
		if got := metric(t, f.registry, expiry, ""); got != float64(ends[2].Unix()) {
			t.Errorf("%s = %v, want c's end %d", expiry, got, ends[2].Unix())
		}
		leafs[0].Close()
		leafs[2].Close()
	})
}

func TestMetricsTaken(t *testing.T) {
	registry := prometheus.NewRegistry()
	if _, err := sds.New(sds.Config{Source: newSource(), Registerer: registry}); err != nil {
		t.Fatal(err)
	}
	if _, err := sds.New(sds.Config{Source: newSource(), Registerer: registry}); err == nil || !strings.HasPrefix(err.Error(), "sds metrics: duplicate") {
		t.Errorf("New() error %v, want that the metrics are registered twice", err)
	}
}

// TestNothingPrintsKeys prints all there is in all ways, and looks for keys and tokens.
func TestNothingPrintsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		const token = "s3cr3t-token"
		caller := identity.Caller{Proxy: "web-proxy", Token: token}
		l := f.Watch(caller, service("web"), nil)
		defer l.Close()
		svid := p.leaf(t, "web", nil)
		f.source.giveRoots(t, bundle(p))
		f.source.give(t, token+"web", svid)
		f.source.give(t, token+"web", p.leaf(t, "db", nil)) // refused, and logged
		f.source.give(t, token+"web", &sds.SVID{Certificates: svid.Certificates, PrivateKey: p.root.Key})
		f.source.fail(t, token+"web", errors.New("gone"))
		f.source.giveRoots(t, bundle())
		b, _ := f.Roots()
		json, text := slog.New(slog.NewJSONHandler(f.log, nil)), slog.New(slog.NewTextHandler(f.log, nil))
		for _, v := range []any{l.Leafs, f.Credentials, caller, b, svid, *svid, struct {
			S *sds.SVID
			V sds.SVID
			L *sds.Leafs
			C *sds.Credentials
			D identity.Caller
		}{svid, *svid, l.Leafs, f.Credentials, caller}} {
			for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
				fmt.Fprintf(f.log, format+"\n", v)
			}
			json.Info("x", "source", v)
			text.Info("x", "source", v)
		}
		raw, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		d := svid.PrivateKey.(*ecdsa.PrivateKey).D //nolint:forcetypeassert // what printing a key prints
		out := f.log.String()
		for _, secret := range []string{"PRIVATE KEY", token, hex.EncodeToString(raw), fmt.Sprint(raw), d.String(), hex.EncodeToString(d.Bytes())} { //nolint:staticcheck // as %v prints a key
			if strings.Contains(out, secret) {
				t.Errorf("%.20q was printed:\n%s", secret, out)
			}
		}
		if !strings.Contains(out, "/svc/web") || !strings.Contains(out, "leaf refused") || !strings.Contains(out, "sds.Credentials") {
			t.Errorf("nothing was printed at all:\n%s", out)
		}
	})
}

// TestRotate: a rotation asks the source anew and waits for what comes of it.
func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		f.source.giveRoots(t, bundle(p))
		rotate := func() <-chan error {
			done := make(chan error, 1)
			go func() { done <- f.Rotate(identity.NewName("web")) }()
			synctest.Wait()
			return done
		}
		const nobody = `nobody uses a leaf of the service "web"`
		if err := <-rotate(); err == nil || err.Error() != nobody {
			t.Errorf("error %v, want %s", err, nobody)
		}
		web, other := f.Watch(identity.Caller{}, service("web"), nil), f.Watch(identity.Caller{Token: "t"}, service("web"), nil)
		db := f.Watch(identity.Caller{}, service("db"), nil)
		defer db.Close()
		f.source.give(t, "web", p.leaf(t, "web", nil))
		old := web.SVID()
		done := rotate()
		if n := f.source.count("web") + f.source.count("tweb"); n != 4 || f.source.count("db") != 1 {
			t.Errorf("web was watched %d times and db %d, want 4 and 1", n, f.source.count("db"))
		}
		next := p.leaf(t, "web", nil)
		f.source.give(t, "web", next)
		if web.SVID() != next || next == old || len(done) > 0 {
			t.Error("the new leaf is not in use, or the other was not waited for")
		}
		for what, want := range map[string]int{
			`level=INFO msg="roots changed" audit=rotation count=1`:                                                                      1,
			`level=INFO msg="leaf issued" audit=rotation service=web serial=` + next.Certificates[0].SerialNumber.Text(16) + ` expires=`: 1,
			`msg="leaf issued"`: 2,
		} {
			if n := strings.Count(f.log.String(), what); n != want {
				t.Errorf("%d times in the log, want %d: %s", n, want, what)
			}
		}
		f.source.fail(t, "tweb", errors.New("no connection"))
		if err := <-done; err == nil || !strings.Contains(err.Error(), "no connection") {
			t.Errorf("error %v, want why the other leaf was not made", err)
		}
		time.Sleep(2 * time.Second)
		done = rotate()
		f.source.give(t, "web", p.leaf(t, "db", nil))
		f.source.give(t, "tweb", p.leaf(t, "web", nil))
		if err := <-done; err == nil || !strings.Contains(err.Error(), "its subject alternative name is not") || web.SVID() != next {
			t.Errorf("error %v, want that the new leaf was refused", err)
		}
		done = rotate()
		web.Close()
		other.Close()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "nobody uses the leaf any more") {
			t.Errorf("error %v of a rotation that nobody needs any more", err)
		}
		again := f.Watch(identity.Caller{}, service("web"), nil)
		defer again.Close()
		synctest.Wait()
		done = rotate()
		f.stop()
		if err := <-done; err == nil {
			t.Error("a rotation went well while Run ended")
		}
		if err := f.Rotate(identity.NewName("web")); err == nil || err.Error() != nobody {
			t.Errorf("error %v after Run ended, want %s", err, nobody)
		}
	})
}
