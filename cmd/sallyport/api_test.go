package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// TestListenersOf: what is missing there, `sallyport envoy` shares with another process without a
// word.
func TestListenersOf(t *testing.T) {
	t.Parallel()
	got := listenersOf(&catalog.Proxy{
		Origin:  "web.hcl:3",
		Inbound: catalog.Inbound{Address: "fd00::1", Port: 21000},
		Upstreams: []catalog.Upstream{
			{Destination: identity.NewName("api"), BindAddress: "127.0.0.1", BindPort: 9191, Origin: "web.hcl:9"},
			{Destination: identity.NewName("db"), BindSocket: "/run/db.sock", Origin: "web.hcl:12"},
		},
		Exposed: []catalog.ExposedPath{{Path: "/healthz", ListenerPort: 21600, LocalPort: 8080, Protocol: catalog.HTTP, Origin: "web.hcl:20"}},
	})
	want := []admin.Listener{
		{Name: "public_listener", Address: "[fd00::1]:21000", Origin: "web.hcl:3"},
		{Name: "upstream api", Address: "127.0.0.1:9191", Origin: "web.hcl:9"},
		{Name: "upstream db", Socket: "/run/db.sock", Origin: "web.hcl:12"},
		{Name: "exposed path /healthz", Address: "[fd00::1]:21600", Origin: "web.hcl:20"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("listeners (-want +got):\n%s", diff)
	}
}
