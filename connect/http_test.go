package connect

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

// TestServeTLS serves by http.Server's own means, with another choice of protocols, and has dials counted.
func TestServeTLS(t *testing.T) {
	a := apitest.New(t)
	address := a.Serve()
	api := start(t, address, "api", Options{})
	var good, bad atomic.Int64
	web := start(t, address, "web", Options{Metrics: Metrics{Dialed: func(service string, err error, took time.Duration) {
		switch {
		case took <= 0:
			t.Errorf("%s took %s", service, took)
		case err == nil && service == "api.service.consul":
			good.Add(1)
		case err != nil && service == "nobody.service.consul":
			bad.Add(1)
		}
	}}})
	for protocol, want := range map[string]string{"h2": "HTTP/2.0", "http/1.1": "HTTP/1.1"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{
			TLSConfig: api.ServerTLSConfig(protocol),
			Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }),
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = server.ServeTLS(l, "", "") }()
		a.Register("api", l.Addr().String())
		client := &http.Client{Transport: web.HTTPTransport()} // a pool of its own: not the server before
		resp, err := client.Get("https://api.service.consul/")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v, want %q", protocol, b, err, want)
		}
		resp.Body.Close()
		if resp, err := client.Get("https://nobody.service.consul/"); err == nil {
			resp.Body.Close()
			t.Error("nobody answers")
		}
		client.CloseIdleConnections()
		server.Close()
		<-done
	}
	if good.Load() != 2 || bad.Load() != 2 {
		t.Errorf("%d dials and %d failures, want two of each", good.Load(), bad.Load())
	}
}
