package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/xds"
)

// TestPrintStatus: what stands below the table.
func TestPrintStatus(t *testing.T) {
	nack := func(standing bool) *xds.NACK {
		return &xds.NACK{Type: "listener", Resources: []string{"db"}, Message: "cannot bind\n", Time: time.Now().Add(-14 * time.Second), Standing: standing}
	}
	s := admin.Status{Proxies: []xds.ProxyStatus{
		{ID: "healed", Connected: true, InSync: true, LastNACK: nack(false)},
		{ID: "stands", Connected: true, LastNACK: nack(true), Streams: []xds.StreamStatus{{Refused: []string{"db"}}}},
		{ID: "away", LastNACK: nack(false)},
		{ID: "rejected", LastRejection: &xds.Rejection{Time: time.Now().Add(-3 * time.Second), Reason: "the token\nis not known"}},
		{ID: "left", Connected: true, Left: true},
		{ID: "revoked", Connected: true, InSync: true, Streams: []xds.StreamStatus{{RevocationPending: true, RevocationAt: time.Now().Add(4 * time.Second)}}},
		{ID: "silent", Service: "web", Connected: true, InSync: true},
	}, RevokedCertificates: 2, RevokedIdentities: 1, Applications: map[string]admin.Application{"silent": {Since: time.Now().Add(-3 * time.Second), Failed: 2, Address: "127.0.0.1:8080"}}}
	var out strings.Builder
	printStatus(&out, advice{}, s, 7, nil, nil)
	if !strings.Contains(out.String(), "7 proxies") {
		t.Errorf("status: %s, want all proxies counted", out.String())
	}
	if !strings.Contains(out.String(), "revoked: 2 certificates, 1 identity: `sallyport revoked` lists them\n") {
		t.Errorf("status: %s, want how many are revoked", out.String())
	}
	const want = `stands: Envoy refused listener db 14s ago: cannot bind
rejected: its last stream was rejected 3s ago: the token is not known
left: is connected, and not in the catalog: its Envoy keeps what it had: stop it, or register it
  again
away: Envoy refused listener db 14s ago: cannot bind
silent: the application web at 127.0.0.1:8080 does not answer its sidecar: 2 attempts failed since
  3s ago
healed: Envoy refused listener db 14s ago, mended: cannot bind
revoked: a revocation refuses new connections already, and ends live ones in 4s: the one before has
  just done that, and how often it is done is bounded
`
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > pageWidth {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !strings.HasSuffix(out.String(), "\n"+want) {
		t.Errorf("status:\n%s\nwant at its end\n%s", out.String(), want)
	}
}

// TestPrintInstances: applications without a sidecar have a section of their own, below the table.
func TestPrintInstances(t *testing.T) {
	s := admin.Status{Instances: []admin.Instance{
		{ID: "mail-1", Service: "mail", Address: "10.0.0.9:8443", Native: true, Status: "passing", Origin: "mail.hcl:1"},
		{ID: "batch", Service: "batch", Origin: "batch.hcl:1"},
	}}
	for range mostInstances {
		s.Instances = append(s.Instances, admin.Instance{ID: "x", Service: "x", Origin: "x.hcl:1"})
	}
	var out strings.Builder
	printStatus(&out, advice{}, s, 0, nil, nil)
	for _, want := range []string{"\nApplications without a sidecar\n  mail-1, of mail, at 10.0.0.9:8443, native, passing (mail.hcl:1)\n  batch (batch.hcl:1)\n", "\n  and 2 more: --json has all\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status:\n%s\nwant in it\n%s", out.String(), want)
		}
	}
}
