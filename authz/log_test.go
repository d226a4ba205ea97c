package authz_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logged runs a server with config for as long as do takes and two seconds more, and returns what
// it logged.
func logged(t *testing.T, config authz.Config, do func(*authz.Server)) string {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		config.Logger = slog.New(slog.NewTextHandler(&out, nil))
		config.Views = views(scope(intention.Deny), identity.NewName("api"), someIntentions())
		s := newServer(t, config)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		do(s)
		time.Sleep(2 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return out.String()
}

func TestLogsDenials(t *testing.T) {
	ca := newIssuer(t)
	bad := request("http", uri("bad"), ca.certificate(t, decisiontable.Peer{URIs: []string{uri("bad")}}), "api")
	web := request("http", uri("web"), ca.certificate(t, decisiontable.Peer{URIs: []string{uri("web")}}), "api")
	check := func(s *authz.Server) {
		for range 50 {
			s.Check(call(t.Context(), "api"), web)
		}
		for range 25 {
			s.Check(call(t.Context(), "api"), bad)
			synctest.Wait()
		}
		time.Sleep(1500 * time.Millisecond)
		s.Check(call(t.Context(), "api"), bad)
	}
	out := logged(t, authz.Config{Authorize: known, LogDenials: true}, check)
	if n := strings.Count(out, "msg=denied "); n != 11 {
		t.Errorf("%d denials were logged, want 10 in the first second and 1 in the next:\n%s", n, out)
	}
	if !strings.Contains(out, "denials=15") {
		t.Errorf("the log does not say that 15 denials were left out:\n%s", out)
	}
	for _, want := range []string{uri("bad"), "bad => api (deny)", "origin=api.hcl:4", "proxy=" + proxyID} {
		if !strings.Contains(out, want) {
			t.Errorf("the log does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, uri("web")) {
		t.Errorf("what was allowed is logged:\n%s", out)
	}
	if out := logged(t, authz.Config{Authorize: known}, check); out != "" {
		t.Errorf("denials are logged unasked:\n%s", out)
	}
}

func TestLogsPanics(t *testing.T) {
	out := logged(t, authz.Config{Authorize: func(context.Context) (identity.Caller, error) { panic("oops") }}, func(s *authz.Server) {
		s.Check(call(t.Context(), "api"), nil)
	})
	if !strings.Contains(out, "level=ERROR") || !strings.Contains(out, "oops") || !strings.Contains(out, "TestLogsPanics") {
		t.Errorf("a panic was logged as:\n%s", out)
	}
}

// TestLogNeverBlocks floods a server that nobody runs.
func TestLogNeverBlocks(t *testing.T) {
	s := newServer(t, authz.Config{Views: views(scope(intention.Deny), identity.NewName("api"), nil), Authorize: known, LogDenials: true})
	ctx, cancel := context.WithTimeout(call(t.Context(), "api"), time.Minute)
	defer cancel()
	for range 1000 {
		if _, err := s.Check(ctx, request("tcp", strings.Repeat("x", 10000), "", "api")); err != nil {
			t.Fatal(err)
		}
	}
}
