package certpath

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// dialling is an Envoy's way to the servers that show chains: for each bundle and each of them a listener, and the cluster that it leads to.
type dialling struct {
	dir       string
	listeners []any
	clusters  []any
}

// socket is where the Envoy listens for who wants to reach the server that shows a chain, with the roots of a bundle.
func (d *dialling) socket(chain, bundle int, validator bool) string {
	return filepath.Join(d.dir, fmt.Sprintf("to-%d-%d-%t", chain, bundle, validator))
}

// add has the Envoy dial the server at address with the roots of a bundle; the server shows the chain of the number that it is asked for.
func (d *dialling) add(address string, chain, number int, bundle []*x509.Certificate, validator bool) {
	name := d.socket(chain, number, validator)
	d.clusters = append(d.clusters, object{
		"name": name, "type": "STATIC", "connect_timeout": "5s",
		"load_assignment": object{"cluster_name": name, "endpoints": []any{object{"lb_endpoints": []any{object{"endpoint": object{"address": object{"pipe": object{"path": address}}}}}}}},
		"transport_socket": object{"name": "tls", "typed_config": typed("transport_sockets.tls.v3.UpstreamTlsContext", object{
			"sni": strconv.Itoa(chain), "common_tls_context": object{"validation_context": rootsOf(bundle, validator)},
		})},
	})
	d.listeners = append(d.listeners, object{
		"name": name, "address": object{"pipe": object{"path": name}},
		"filter_chains": []any{object{"filters": []any{object{
			"name": "tcp", "typed_config": typed("filters.network.tcp_proxy.v3.TcpProxy", object{"stat_prefix": "tcp", "cluster": name}),
		}}}},
	})
}

// echoServer answers with what it is sent until the test ends, and shows the chain of the number that it is asked for by SNI.
func echoServer(t *testing.T, dir string, p *pki, chains []rotationChain) (address string) {
	t.Helper()
	address = filepath.Join(dir, "server")
	var shown []*tls.Certificate
	for _, c := range chains {
		certificate := &tls.Certificate{PrivateKey: p.key("leaf")}
		for _, one := range c.chain {
			certificate.Certificate = append(certificate.Certificate, one.Raw)
		}
		shown = append(shown, certificate)
	}
	plain, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	l := tls.NewListener(plain, &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		n, err := strconv.Atoi(hello.ServerName)
		if err != nil || n >= len(shown) {
			return nil, fmt.Errorf("no chain %q", hello.ServerName)
		}
		return shown[n], nil
	}})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // who is refused sends nothing
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return address
}

// reached reports whether what is sent to a listener of dialling comes back.
func reached(t *testing.T, socket string) bool {
	t.Helper()
	conn, err := net.DialTimeout("unix", socket, meshtest.Deadline)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(meshtest.Deadline)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 2)
	if _, err = conn.Write([]byte("hi")); err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("neither reached nor refused: %v", err)
	}
	return err == nil && string(answer) == "hi"
}
