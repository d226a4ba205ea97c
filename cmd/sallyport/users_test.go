package main

import (
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/workload"
)

// TestCallers: users of both interfaces are one caller, and a page has no more than some.
func TestCallers(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	leaf := func(service string, serial int64, left time.Duration) *x509.Certificate {
		u, err := url.Parse("spiffe://mesh.consul/ns/default/dc/dc1/svc/" + service)
		if err != nil {
			t.Fatal(err)
		}
		return &x509.Certificate{SerialNumber: big.NewInt(serial), URIs: []*url.URL{u}, NotAfter: now.Add(left)}
	}
	web := leaf("web", 1, 2*time.Hour)
	got := callersOf(
		[]api.User{
			{Caller: "10.1.2.3", TCP: 1},
			{Caller: "token A", Services: []identity.Name{identity.NewName("api")}, Unix: 2, TCP: 1, Waiting: 3, Leafs: []*x509.Certificate{leaf("api", 2, time.Hour)}},
			{Caller: "uid 7", Unix: 1, Leafs: []*x509.Certificate{web}},
		},
		[]workload.User{{Caller: "uid 7", Connections: 1, Streams: 2, Leafs: []*x509.Certificate{web, leaf("db", 3, time.Hour)}}, {Caller: "uid 8", Streams: 1}},
	)
	want := []admin.Caller{
		{Name: "10.1.2.3", By: []string{"TCP"}, Connections: 1},
		{Name: "token A", By: []string{"http.sock", "TCP"}, Services: []string{"api"}, Connections: 3, Waiting: 3, Leafs: []admin.CallerLeaf{{Service: "api", Serial: "02", Ends: now.Add(time.Hour)}}},
		{
			Name: "uid 7", By: []string{"http.sock", "workload.sock"}, Services: []string{"db", "web"}, Connections: 2, Waiting: 2,
			Leafs: []admin.CallerLeaf{{Service: "db", Serial: "03", Ends: now.Add(time.Hour)}, {Service: "web", Serial: "01", Ends: now.Add(2 * time.Hour)}},
		},
		{Name: "uid 8", By: []string{"workload.sock"}, Connections: 1, Waiting: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for i := range mostCallers {
		got = append(got, admin.Caller{Name: fmt.Sprintf("uid %d", 100+i)})
	}
	var out strings.Builder
	printCallers(&out, painter{}, got)
	for _, want := range []string{
		"token A   api     http.sock,TCP            3            3        59m\n",
		"uid 7     db,web  http.sock,workload.sock  2            2        59m and 1 more\n",
		"\n  and 4 more: --json has all\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s\nwant %q in it", out.String(), want)
		}
	}
	if n := strings.Count(out.String(), "\n"); n != mostCallers+4 {
		t.Errorf("%d lines", n)
	}
	if got := callersFor(got, []string{"db"}); len(got) != 1 || got[0].Name != "uid 7" {
		t.Errorf("of db: %+v", got)
	}
	out.Reset()
	if printCallers(&out, painter{}, nil); out.Len() > 0 {
		t.Errorf("of nobody: %s", out.String())
	}
}
