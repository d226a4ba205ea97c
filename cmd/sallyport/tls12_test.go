package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/xds"
)

func TestTLS12(t *testing.T) {
	run, err := os.MkdirTemp("", "sp") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	for name, answer := range map[string]string{
		"new": `{"stats":[{"name":"listener.0.0.0.0_1.ssl.versions.TLSv1.2","value":0}]}`,
		"old": `{"stats":[{"name":"listener.0.0.0.0_1.ssl.versions.TLSv1.2","value":3},{"name":"listener.[__1]_2.ssl.versions.TLSv1.2","value":4}]}`,
		"odd": `<html>`,
	} {
		dir := filepath.Join(run, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("filter") == "" {
				t.Error("all of Envoy's statistics were asked for")
			}
			_, _ = io.WriteString(w, answer)
		})}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
	}
	proxies := []xds.ProxyStatus{
		{ID: "new", Connected: true}, {ID: "old", Connected: true}, {ID: "odd", Connected: true}, {ID: "elsewhere", Connected: true}, {ID: "gone"},
	}
	got := tls12(t.Context(), run, proxies)
	if n, ok := got["new"]; len(got) != 2 || got["old"] != 7 || n != 0 || !ok {
		t.Errorf("tls12 = %v, want 7 of old, none of new and nothing else", got)
	}
	for accepts, want := range map[bool]int{true: 2, false: 0} {
		if n, connected := uncounted(admin.Status{AcceptsTLS12: accepts, Proxies: proxies, TLS12: got}); n != want || connected != 4 {
			t.Errorf("TLS 1.2 is accepted: %t: %d of %d proxies are not counted, want %d of 4", accepts, n, connected, want)
		}
	}
}
