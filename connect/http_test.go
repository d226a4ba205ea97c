package connect

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/connect/internal/apitest"
)

func TestHTTP(t *testing.T) {
	a := apitest.New(t)
	address := a.ServeUnix()
	api := start(t, address, "api", Options{})
	web := start(t, address, "web", Options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := Peer(*r.TLS)
		if err != nil {
			t.Error(err)
		}
		name, dc, err := ServiceName(peer)
		fmt.Fprintf(w, "%s %s %s %v", r.Proto, name, dc, err)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(tls.NewListener(l, api.ServerTLSConfig())) }()
	defer func() { server.Close(); <-done }()
	a.Register("api", l.Addr().String())
	a.RegisterIn("dc2", "api", l.Addr().String())
	for url, want := range map[string]string{
		"https://api.service.consul/":         "HTTP/2.0 web dc1 <nil>",
		"https://API.service.consul:8443/":    "HTTP/2.0 web dc1 <nil>",
		"https://api.service.dc1.consul/":     "HTTP/2.0 web dc1 <nil>",
		"https://api.service.dc2.consul/":     "another service",
		"http://api.service.consul/":          "write https, not http",
		"https://example.org/":                "is no service of the mesh",
		"https://127.0.0.1/":                  "is no service of the mesh",
		"https://api/":                        "is no service of the mesh",
		"https://v1.api.service.consul/":      "cannot be dialled",
		"https://api.query.consul/":           "cannot be dialled",
		"https://nobody.service.consul/":      "no healthy instance of nobody",
		"https://nobody.service.dc9.consul./": "no healthy instance of nobody",
	} {
		t.Run(url, func(t *testing.T) {
			resp, err := web.HTTPClient().Get(url)
			if err != nil {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != want {
				t.Errorf("got %q, %v, want %q", b, err, want)
			}
		})
	}
	if n := a.Asked("/v1/agent/connect/authorize"); n > 4 {
		t.Errorf("%d handshakes for four requests", n)
	}
}
