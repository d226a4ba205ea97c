package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

func leafIn(t *testing.T, a reply) leafAnswer {
	t.Helper()
	var l leafAnswer
	if err := json.Unmarshal([]byte(a.body), &l); err != nil || a.code != http.StatusOK {
		t.Fatalf("leaf: %d %s: %v", a.code, a.body, err)
	}
	return l
}

// TestLeaf: a leaf is good for TLS, each caller has its own, the same one whenever it asks, and another index for another leaf.
func TestLeaf(t *testing.T) {
	r := start(t)
	const path = "/v1/agent/connect/ca/leaf/api"
	first := r.ask(t, "GET", path, "api", "")
	l := leafIn(t, first)
	pair, err := tls.X509KeyPair([]byte(l.CertPEM), []byte(l.PrivateKeyPEM))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if want := "spiffe://" + trustDomain.Name() + "/ns/default/dc/dc1/svc/api"; l.ServiceURI != want || leaf.URIs[0].String() != want || l.Service != "api" {
		t.Errorf("leaf of %s, %s, want %s", l.ServiceURI, leaf.URIs, want)
	}
	if l.ModifyIndex != first.index(t) || l.SerialNumber != colonHex(leaf.SerialNumber.Bytes()) || !strings.Contains(l.PrivateKeyPEM, "EC PRIVATE KEY") {
		t.Errorf("leaf %+v, index %d", l.SerialNumber, first.index(t))
	}
	if again := r.ask(t, "GET", path, "api", ""); again.body != first.body || again.index(t) != first.index(t) {
		t.Error("another leaf for the same caller")
	}
	if other := leafIn(t, r.ask(t, "GET", path, "other-api", "")); other.SerialNumber == l.SerialNumber || other.PrivateKeyPEM == l.PrivateKeyPEM {
		t.Error("two callers share a leaf")
	}
	// A wait for another one ends with its time, with the next leaf, or with the client.
	began := time.Now()
	if a := r.ask(t, "GET", fmt.Sprintf("%s?index=%d&wait=50ms", path, first.index(t)), "api", ""); a.body != first.body || time.Since(began) < 50*time.Millisecond {
		t.Errorf("a wait ended after %v", time.Since(began))
	}
	woken := make(chan reply, 1)
	go func() {
		a, _ := r.try(t.Context(), "GET", fmt.Sprintf("%s?index=%d&wait=1m", path, first.index(t)), "api", "")
		woken <- a
	}()
	r.await(t, 1)
	if err := r.config.Credentials.Rotate(identity.NewName("api")); err != nil {
		t.Fatal(err)
	}
	next := <-woken
	if n := leafIn(t, next); n.SerialNumber == l.SerialNumber || next.index(t) <= first.index(t) {
		t.Errorf("woken with index %d after %d", next.index(t), first.index(t))
	}
}

// await waits until so many questions wait.
func (r *rig) await(t testing.TB, n int64) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); r.waits.used() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d questions wait, want %d", r.waits.used(), n)
		}
	}
}

// TestWaits: waits end with the client and are bounded per caller; an unrelated change wakes nobody; no two contents have one index.
func TestWaits(t *testing.T) {
	r := start(t)
	const path = "/v1/agent/connect/ca/roots"
	first := r.ask(t, "GET", path, "", "")
	again := fmt.Sprintf("%s?index=%d", path, first.index(t))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := r.try(ctx, "GET", again, "", "")
		ended <- err
	}()
	r.await(t, 1)
	r.intend("db", "web", 1) // none of the roots' business
	time.Sleep(50 * time.Millisecond)
	r.await(t, 1)
	cancel()
	if err := <-ended; err == nil {
		t.Error("a change that is none of the roots' woke those who wait for them")
	}
	r.await(t, 0)

	if a := r.ask(t, "GET", fmt.Sprintf("%s?index=%d&wait=10ms", path, first.index(t)+1_000_000), "", ""); a.index(t) != first.index(t) {
		t.Errorf("an index that is ahead is answered with %d, want %d after the wait", a.index(t), first.index(t))
	}
	if a := r.ask(t, "GET", path+"?index=1", "", ""); a.index(t) != first.index(t) {
		t.Errorf("an old index: %d", a.index(t))
	}

	var leave []func()
	for range maxWaits {
		l, err := r.waits.enter("uid 0")
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	peer := "uid 0"
	if _, err := r.waits.enter(peer); err == nil {
		t.Error("no bound of waits")
	}
	if _, err := r.waits.enter("another"); err != nil {
		t.Errorf("another caller: %v", err)
	}
	for _, l := range leave {
		l()
	}
	if _, err := r.waits.enter(peer); err != nil {
		t.Error(err)
	}
}

// TestNoChangeIsMissed: who asks for what comes after what it knows is answered with it, however close the two are in time, and no
// index is that of two contents.
func TestNoChangeIsMissed(t *testing.T) {
	r := start(t)
	r.config.Views.Set(r.view)
	const rounds = 300
	var known sync.Map // the content of an index
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range 8 {
		all.Go(func() {
			index := uint64(1)
			for {
				began := time.Now()
				a, err := r.try(t.Context(), "GET", fmt.Sprintf("/v1/connect/intentions/match?by=destination&name=api&index=%d&wait=30s", index), "reader", "")
				if err != nil || a.code != http.StatusOK {
					t.Errorf("%v %d %s", err, a.code, a.body)
					return
				}
				next, err := strconv.ParseUint(a.header.Get("X-Consul-Index"), 10, 64)
				if before, ok := known.LoadOrStore(next, a.body); err != nil || ok && before != a.body {
					t.Errorf("index %d has two contents (%v)", next, err)
				}
				if next < index || time.Since(began) > 20*time.Second {
					t.Errorf("index %d after %d, after %v", next, index, time.Since(began))
				}
				index = next
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for n := range rounds {
		r.intend("api", "web", intention.Action(n%2))
		time.Sleep(time.Duration(rand.IntN(400)) * time.Microsecond)
	}
	close(stop)
	for range 20 { // so that each of them is answered once more
		r.intend("api", "web", intention.Allow)
		time.Sleep(10 * time.Millisecond)
		r.intend("api", "web", intention.Deny)
		time.Sleep(10 * time.Millisecond)
	}
	all.Wait()
}

// TestChangeBeforeAWait: a change between the moment at which a question was read and that at which it waits is none that it waits for.
func TestChangeBeforeAWait(t *testing.T) {
	r := start(t)
	r.settle(t)
	q := &question{route: r.routes.exact["/v1/connect/intentions/match"], query: url.Values{"by": {"destination"}, "name": {"api"}}, caller: Caller{ID: "x", Reader: true}}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	first, err := r.Server.ask(request, q)
	if err != nil {
		t.Fatal(err)
	}
	r.intend("api", "web", intention.Deny)
	r.settle(t)
	q.index, q.wait = first.index, 3*time.Second
	began := time.Now()
	a, err := r.Server.ask(request, q)
	if err != nil || a.index <= first.index || time.Since(began) >= q.wait {
		t.Errorf("index %d after %d, %v, after %v", a.index, first.index, err, time.Since(began))
	}
}
