package authz_test

import (
	"bytes"
	"context"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
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

// TestLogsDenials: one line per caller, service, reason and minute, with a count.
func TestLogsDenials(t *testing.T) {
	ca := newIssuer(t)
	bad := request("http", uri("bad"), ca.certificate(t, decisiontable.Peer{URIs: []string{uri("bad")}}), "api")
	web := request("http", uri("web"), ca.certificate(t, decisiontable.Peer{URIs: []string{uri("web")}}), "api")
	unknown := request("http", uri("unknown"), ca.certificate(t, decisiontable.Peer{URIs: []string{uri("unknown")}}), "api")
	check := func(s *authz.Server) {
		for range 50 {
			s.Check(call(t.Context(), "api"), web)
		}
		for range 25 {
			s.Check(call(t.Context(), "api"), bad)
			synctest.Wait()
		}
		time.Sleep(30 * time.Second)
		for range 3 {
			s.Check(call(t.Context(), "api"), bad)
			s.Check(call(t.Context(), "api"), unknown)
		}
		time.Sleep(time.Minute)
		s.Check(call(t.Context(), "api"), bad) // is in the log when the server ends
	}
	out := logged(t, authz.Config{Authorize: known, LogDenials: true}, check)
	var got []string
	for line := range strings.Lines(out) {
		_, line, _ = strings.Cut(line, "level=")
		got = append(got, line)
	}
	byIntention := "INFO msg=denied source=" + uri("bad") + " destination=api reason=\"denied by intention bad => api (deny), api.hcl:4\" origin=api.hcl:4 count="
	want := []string{byIntention + "28\n", "INFO msg=denied source=" + uri("unknown") + " destination=api reason=\"denied: default policy\" count=3\n", byIntention + "1\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if out := logged(t, authz.Config{Authorize: known}, check); out != "" {
		t.Errorf("denials are logged unasked:\n%s", out)
	}
}

// TestLogIsBounded: callers without number make no log without end.
func TestLogIsBounded(t *testing.T) {
	out := logged(t, authz.Config{Authorize: known, LogDenials: true}, func(s *authz.Server) {
		for n := range 5000 {
			s.Check(call(t.Context(), "api"), request("tcp", uri("caller-"+strconv.Itoa(n)), "", "api"))
			synctest.Wait()
		}
	})
	if lines := strings.Count(out, "\n"); lines != 1001 || !strings.Contains(out, "not listed\" count=4000\n") {
		t.Errorf("%d lines, the last ones:\n%s\nwant 1000 and one that counts the others", lines, out[max(0, len(out)-500):])
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
