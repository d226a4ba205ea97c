//go:build e2e && linux

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// native fails the test unless an instance of api that is a Connect native task is dialled by the sidecars of web, by mutual TLS.
func (n *node) native() {
	t, c := n.t, n.nomad.consul
	t.Helper()
	var leaf struct{ CertPEM, PrivateKeyPEM string }
	c.Must("GET", "/v1/agent/connect/ca/leaf/api", nil, &leaf)
	cert, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		t.Fatal(err)
	}
	var roots struct{ Roots []struct{ RootCert string } }
	c.Must("GET", "/v1/agent/connect/ca/roots", nil, &roots)
	pool := x509.NewCertPool()
	for _, r := range roots.Roots {
		pool.AppendCertsFromPEM([]byte(r.RootCert))
	}
	l, err := tls.Listen("tcp", net.JoinHostPort(nodeAddress, "0"), &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello from the native api") })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	id := "_nomad-task-" + uuid() + "-native-api-native"
	c.Register(map[string]any{
		"ID": id, "Name": "api", "Address": nodeAddress, "Port": l.Addr().(*net.TCPAddr).Port, "Meta": map[string]any{"external-source": "nomad"}, "Connect": map[string]any{"Native": true},
	})
	meshtest.Await(t, "web reaches the native api", func() error { return n.try(askAPI, "hello from the native api") })
	c.Must("PUT", "/v1/agent/service/deregister/"+id, nil, nil)
	meshtest.Await(t, "web reaches the native api no more", func() error {
		var err error
		for range 3 {
			err = errors.Join(err, n.try(askAPI, "hello from api"))
		}
		return err
	})
}

// buildOrders builds the server of docs/native/go.md, in the workspace that has its packages.
func buildOrders(t *testing.T, path string) {
	t.Helper()
	writeFile(t, path+".go", pageBlock(t, "native/go.md", "go", "// server.go"))
	cmd := exec.Command("go", "build", "-o", path, path+".go")
	cmd.Dir = "native"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
}

// connectNative fails the test unless the guide's Connect native task lets in web, and nobody else, with what it has from sallyport.
func (n *node) connectNative() {
	t, c := n.t, n.nomad.consul
	t.Helper()
	n.types("consul config write orders-intentions.hcl")
	n.types("nomad job run orders.nomad.hcl")
	var roots struct{ Roots []struct{ RootCert string } }
	c.Must("GET", "/v1/agent/connect/ca/roots", nil, &roots)
	pool := x509.NewCertPool()
	for _, r := range roots.Roots {
		pool.AppendCertsFromPEM([]byte(r.RootCert))
	}
	at := n.nomad.of("orders")[0].ports["tls"]
	as := func(service string) meshtest.Answer {
		var leaf struct{ CertPEM, PrivateKeyPEM, ServiceURI string }
		c.Must("GET", "/v1/agent/connect/ca/leaf/"+service, nil, &leaf)
		cert, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
		if err != nil {
			t.Fatal(err)
		}
		return meshtest.Client{Certificate: &cert, Roots: pool, Server: strings.TrimSuffix(leaf.ServiceURI, service) + "orders"}.Get(at, "/")
	}
	meshtest.Await(t, "the native task answers web", func() error {
		if a := as("web"); !strings.HasPrefix(a.Body, "hello spiffe://") || !strings.HasSuffix(a.Body, "/svc/web\n") {
			return fmt.Errorf("%v %q", a, a.Body)
		}
		return nil
	})
	if a := as("api"); a.Err == nil {
		t.Errorf("the native task answers api: %v", a)
	}
	if out, err := n.run("sallyport leaf list orders"); err != nil {
		t.Errorf("its leaf is not from sallyport: %v %s", err, out)
	}
	n.types("nomad job stop orders")
}

// registerNative registers a group's service whose task is Connect native, at a port with a label.
func (n *nomadClient) registerNative(a *allocation, s nomadService) {
	n.t.Helper()
	_, port, err := net.SplitHostPort(a.ports[s.Port])
	if err != nil {
		n.t.Fatalf("port %q of service %s: %v", s.Port, s.Name, err)
	}
	p, _ := strconv.Atoi(port)
	id := fmt.Sprintf("_nomad-task-%s-group-%s-%s-%s", a.id, a.group, s.Name, s.Port)
	n.consul.Register(map[string]any{
		"ID": id, "Name": s.Name, "Address": nodeAddress, "Port": p, "Meta": map[string]any{"external-source": "nomad"}, "Connect": map[string]any{"Native": true},
	})
	a.services = append(a.services, id)
}
