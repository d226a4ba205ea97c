package authz_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"github.com/sallyport/sallyport/internal/latest"
)

// viewsRevoking are views of someIntentions with what is revoked.
func viewsRevoking(all ...intention.Revocation) *latest.Value[*catalog.View] {
	store := &catalog.Store{}
	c := contents(scope(intention.Deny), identity.NewName("api"), someIntentions()).Contents()
	c.Revoked = intention.Revoke(all)
	store.Publish(c)
	return &store.Views
}

// digestOf is the SHA-256 of a certificate as Envoy sends it.
func digestOf(t testing.TB, certificate string) string {
	t.Helper()
	text, err := url.QueryUnescape(certificate)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no certificate in %q", text)
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// TestRevoked: who is revoked, by identity or by certificate, is denied over tcp and http, and the reason names the revocation.
func TestRevoked(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	certificate := ca.certificate(t, decisiontable.Peer{URIs: []string{uri("web")}}) // serial number 1
	digest := digestOf(t, certificate)
	other := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		revoked []intention.Revocation
		want    string // of the reason; empty: it is let in
	}{
		"nothing":                      {},
		"its identity":                 {[]intention.Revocation{{ID: uri("web"), Reason: "stolen", Origin: "revoked.yaml:2"}}, uri("web") + " is revoked (stolen), revoked.yaml:2"},
		"another's identity":           {[]intention.Revocation{{ID: uri("bad")}}, ""},
		"its serial number":            {[]intention.Revocation{{Serial: "1", Origin: "sallyport/revoked:3"}}, "certificate 1 is revoked, sallyport/revoked:3"},
		"its digest":                   {[]intention.Revocation{{SHA256: digest, ID: uri("web")}}, "is revoked"},
		"its number, another digest":   {[]intention.Revocation{{Serial: "1", SHA256: other}}, ""},
		"its digest, without a number": {[]intention.Revocation{{SHA256: digest}}, "certificate of SHA-256 " + digest + " is revoked"},
		"another certificate":          {[]intention.Revocation{{Serial: "2", SHA256: other}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			metrics := prometheus.NewRegistry()
			s := newServer(t, authz.Config{Views: viewsRevoking(c.revoked...), Authorize: known, Registerer: metrics})
			for _, kind := range []string{"tcp", "http"} {
				resp, err := s.Check(call(t.Context(), "api"), request(kind, uri("web"), certificate, "api"))
				if err != nil {
					t.Fatal(err)
				}
				text := resp.GetStatus().GetMessage()
				if c.want == "" {
					if got := answer(t, resp, kind); got != intention.Allow {
						t.Errorf("%s: %s (%s)", kind, got, text)
					}
					continue
				}
				if got := answer(t, resp, kind); got != intention.Deny || !strings.HasPrefix(text, "denied: ") || !strings.Contains(text, c.want) {
					t.Errorf("%s: %s, %q, want %q", kind, got, text, c.want)
				}
			}
			want := 0.0
			if c.want != "" {
				want = 2
			}
			if got := decisionsFor(t, metrics, "revoked"); got != want {
				t.Errorf("%v decisions are counted as revoked, want %v", got, want)
			}
		})
	}
}

// decisionsFor is how many decisions have a reason.
func decisionsFor(t *testing.T, metrics *prometheus.Registry, reason string) (n float64) {
	t.Helper()
	all, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != "sallyport_authz_decisions_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "reason" && l.GetValue() == reason {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	if testutil.CollectAndCount(metrics, "sallyport_authz_decisions_total") == 0 {
		t.Fatal("there is no such metric")
	}
	return n
}

// TestRevokedIsLogged: a line of --log-denials has the revocation and where it is written.
func TestRevokedIsLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := newServer(t, authz.Config{
			Views: viewsRevoking(intention.Revocation{ID: uri("web"), Reason: "stolen", Origin: "revoked.yaml:2"}), Authorize: known, LogDenials: true,
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		certificate := newIssuer(t).certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
		if _, err := s.Check(call(t.Context(), "api"), request("tcp", uri("web"), certificate, "api")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if text := log.String(); !strings.Contains(text, "msg=denied") || !strings.Contains(text, "is revoked (stolen)") || !strings.Contains(text, "origin=revoked.yaml:2") {
			t.Errorf("the log is\n%s", text)
		}
	})
}

// BenchmarkRevoked is one decision of BenchmarkCheck while others are revoked: it costs the same however many those are.
func BenchmarkRevoked(b *testing.B) {
	certificate := newIssuer(b).certificate(b, decisiontable.Peer{URIs: []string{uri("web")}})
	for _, n := range []int{0, 100, 10_000} {
		b.Run(fmt.Sprintf("revoked=%d", n), func(b *testing.B) {
			s := newServer(b, authz.Config{Views: viewsRevoking(manyRevoked(n)...), Authorize: known})
			ctx, req := call(b.Context(), "api"), request("http", uri("web"), certificate, "api")
			b.ReportAllocs()
			for b.Loop() {
				if resp, err := s.Check(ctx, req); err != nil || resp.GetStatus().GetCode() != 0 {
					b.Fatal(resp, err)
				}
			}
		})
	}
}

// manyRevoked are n that are none of web's: of three, one identity, one certificate of which all is known, and one of which the number is.
func manyRevoked(n int) []intention.Revocation {
	all := make([]intention.Revocation, n)
	for i := range all {
		switch i % 3 {
		case 0:
			all[i].ID = uri(fmt.Sprint("s", i))
		case 1:
			sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
			all[i] = intention.Revocation{ID: uri("web"), Serial: fmt.Sprintf("a%x", i), SHA256: hex.EncodeToString(sum[:])}
		default:
			all[i].Serial = fmt.Sprintf("b%x", i)
		}
	}
	return all
}

// TestRevokedCost: ten thousand that are revoked make a decision no slower. The bound is ten times what it is, for a machine that does other things.
func TestRevokedCost(t *testing.T) {
	certificate := newIssuer(t).certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
	ctx, req := call(t.Context(), "api"), request("http", uri("web"), certificate, "api")
	const rounds, checks = 20, 500
	servers := map[int]*authz.Server{}
	best := map[int]time.Duration{}
	for _, n := range []int{0, 10_000} {
		servers[n] = newServer(t, authz.Config{Views: viewsRevoking(manyRevoked(n)...), Authorize: known})
	}
	for range rounds {
		for n, s := range servers { // in turns, so that what else the machine does is the same for both
			began := time.Now()
			for range checks {
				if resp, err := s.Check(ctx, req); err != nil || resp.GetStatus().GetCode() != 0 {
					t.Fatal(resp, err)
				}
			}
			if took := time.Since(began); best[n] == 0 || took < best[n] {
				best[n] = took
			}
		}
	}
	ratio := float64(best[10_000]) / float64(best[0])
	fmt.Printf("FIGURE %s ns_per_check=%d with_10000_revoked=%d ratio=%.2f\n", t.Name(), best[0].Nanoseconds()/checks, best[10_000].Nanoseconds()/checks, ratio)
	if ratio > 10 {
		t.Errorf("a decision with 10,000 revoked takes %.1f times as long", ratio)
	}
}
