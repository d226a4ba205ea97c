package api

import (
	"context"
	"crypto/x509"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// revocable is names, until all rights are taken away.
type revocable struct {
	names
	judged  atomic.Int32
	left    atomic.Int32 // how many answers are left before that
	revoked atomic.Bool
}

func (v *revocable) Act(ctx context.Context, c *Caller, service identity.Name, leaf bool) error {
	v.judged.Add(1)
	if v.revoked.Load() || v.left.Add(-1) < 0 {
		return Denied(c, service, remedy)
	}
	return v.names.Act(ctx, c, service, leaf)
}

// TestRevokedMeanwhile: who loses the right while the first leaf is made, or while the request is on its way, gets no leaf.
func TestRevokedMeanwhile(t *testing.T) {
	v := &revocable{}
	r := start(t, func(c *Config) { c.Authority = v })
	v.left.Store(1) // the right is gone once it was looked at
	if a := r.ask(t, "GET", "/v1/agent/connect/ca/leaf/api", "api", ""); a.code != http.StatusForbidden {
		t.Errorf("the first leaf: %d", a.code)
	}
	v.left.Store(100)
	if a := r.ask(t, "GET", "/v1/agent/connect/ca/leaf/api", "api", ""); a.code != http.StatusOK {
		t.Errorf("with the right: %d %s", a.code, a.body)
	}

	body, send := io.Pipe()
	before := v.judged.Load()
	answered := make(chan int, 1)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://localhost/v1/sallyport/leaf/api", body)
		if err != nil {
			t.Error(err)
		}
		req.Header.Set("X-Consul-Token", "api")
		res, err := r.client.Do(req)
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		_ = res.Body.Close()
		answered <- res.StatusCode
	}()
	request, _ := requestPEM(t)
	_, _ = io.WriteString(send, request[:100])
	for end := time.Now().Add(100 * time.Millisecond); v.judged.Load() == before && time.Now().Before(end); { // whoever judges too early has done it
		time.Sleep(time.Millisecond)
	}
	v.revoked.Store(true)
	_, _ = io.Copy(send, strings.NewReader(request[100:]))
	_ = send.Close()
	if code := <-answered; code != http.StatusForbidden {
		t.Errorf("a request that came slowly: %d", code)
	}
}

// TestRevokedWhileSigned: who is revoked while the leaf is signed, by a CA that may take its time, does not get it.
func TestRevokedWhileSigned(t *testing.T) {
	var r *rig
	r = start(t, func(c *Config) {
		sign := c.Sign
		c.Sign = func(ctx context.Context, by identity.Caller, id identity.Service, request []byte) ([]*x509.Certificate, error) {
			contents := r.mesh.Contents()
			contents.Revoked = intention.Revoke([]intention.Revocation{{ID: id.String(), Reason: "stolen"}})
			r.view = r.view.Next(contents)
			r.views.Set(r.view)
			r.settle(t)
			return sign(ctx, by, id, request)
		}
	})
	request, _ := requestPEM(t)
	if a := r.ask(t, "POST", "/v1/sallyport/leaf/api", "api", request); a.code != http.StatusForbidden || !strings.Contains(a.body, "is revoked (stolen)") {
		t.Errorf("%d %s", a.code, a.body)
	}
}
