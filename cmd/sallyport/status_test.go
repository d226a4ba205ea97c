package main

import (
	"strings"
	"testing"
	"time"

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
		{ID: "stands", Connected: true, LastNACK: nack(true)},
		{ID: "away", LastNACK: nack(false)},
		{ID: "rejected", LastRejection: &xds.Rejection{Time: time.Now().Add(-3 * time.Second), Reason: "the token\nis not known"}},
		{ID: "let in again", Connected: true, LastRejection: &xds.Rejection{Time: time.Now().Add(-3 * time.Second), Reason: "the token is not known"}},
	}}
	var out strings.Builder
	if err := printStatus(&out, s, 7, false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "7 proxies") {
		t.Errorf("status: %s, want all proxies counted", out.String())
	}
	const want = `healed: Envoy refused listener db 14s ago, mended: cannot bind
stands: Envoy refused listener db 14s ago: cannot bind
away: Envoy refused listener db 14s ago: cannot bind
rejected: its last stream was rejected 3s ago: the token is not known
`
	if !strings.HasSuffix(out.String(), "\n"+want) {
		t.Errorf("status:\n%s\nwant at its end\n%s", out.String(), want)
	}
}
