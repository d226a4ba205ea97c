package snapshot_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestEnvoyDecidesTable holds real Envoys to the table of decisions: the interpreter of the rules
// may share a mistake with its author. Each case is a tcp and an http listener of one Envoy, on
// Unix sockets, with what it would fetch in place.
func TestEnvoyDecidesTable(t *testing.T) {
	table, err := decisiontable.Load("../intention/testdata/decisions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for version, features := range map[string]snapshot.Features{envoytest.Oldest: oldest, envoytest.Newest: newest} {
		t.Run(version, func(t *testing.T) {
			binary := envoytest.Binary(t, version)
			dir := socketDir(t)
			app := filepath.Join(dir, "app")
			serve(t, app)
			ca, others, known := newAuthority(t), map[spiffeid.TrustDomain]*testca.Pair{}, map[spiffeid.TrustDomain]snapshot.Trust{}
			for _, c := range table {
				for _, p := range c.Peers {
					if td := p.By; td != c.Scope.TrustDomain && !td.IsZero() && others[td] == nil {
						others[td] = testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: td.Name()}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
						known[td] = snapshot.Trust{TrustDomain: td, Roots: others[td].PEM()}
					}
				}
			}
			type listener struct {
				decisiontable.Case
				protocol catalog.Protocol
				socket   string
			}
			var all []listener
			config := &bootstrapv3.Bootstrap{}
			for _, c := range table {
				for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP} {
					in := input(c.Policy(), catalog.Inbound{Protocol: protocol, LocalSocket: app})
					in.Envoy = features
					var federated []snapshot.Trust // as the secret names them; most of the table has none
					for p := range c.Policy().Foreign() {
						if td := known[p.TrustDomain()]; !slices.Contains(federated, td) {
							federated = append(federated, td)
						}
					}
					in.Mesh.Federated = c.Scope.Federated
					r := build(t, in)
					b := static(t, r, ca)
					if len(federated) > 0 {
						b = withRoots(t, r, ca, federated...)
					}
					l := listener{Case: c, protocol: protocol, socket: filepath.Join(dir, strconv.Itoa(len(all)))}
					s := b.StaticResources.Listeners[0]
					s.Name = l.socket
					s.Address = pipe(l.socket)
					if len(all) > 0 {
						b.StaticResources.Listeners = slices.Concat(config.StaticResources.Listeners, b.StaticResources.Listeners)
					}
					config = b
					// The application's cluster is the http one's for all: with tcp, requests pass
					// through as bytes.
					all = append(all, l)
				}
			}
			start(t, binary, dir, config)
			for _, l := range all {
				for _, p := range l.Peers {
					signer := ca
					if others[p.By] != nil {
						signer = &authority{t, others[p.By]}
					}
					got, err := get(t, l.socket, signer, p)
					if err != nil {
						t.Errorf("%s: %s, %s → %s: %v", l.Name, l.protocol, p, l.Destination, err)
					}
					if want := p.Wants(l.protocol.L7()); got != (want == intention.Allow) {
						t.Errorf("%s: %s, %s → %s: allowed = %v, want %s", l.Name, l.protocol, p, l.Destination, got, want)
					}
				}
			}
		})
	}
}

// socketDir is a directory with a name short enough for sockets.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serve answers requests on a socket.
func serve(t testing.TB, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "application") })}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// start runs an Envoy until the test ends, and waits until it is ready.
func start(t testing.TB, binary, dir string, config *bootstrapv3.Bootstrap) {
	t.Helper()
	admin := filepath.Join(dir, "admin")
	config.Admin = &bootstrapv3.Admin{Address: pipe(admin)}
	b, err := protojson.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	meshtest.Start(t, "envoy", filepath.Join(dir, "log"), exec.Command(binary, "--config-path", path, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"))
	meshtest.Await(t, "Envoy is ready", func() error {
		c, err := net.DialTimeout("unix", admin, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		status, _, err := roundTrip(c, "/ready")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
}

// get reports whether the application answers a peer. It is an error if the peer is neither
// answered nor refused.
func get(t *testing.T, socket string, ca *authority, p decisiontable.Peer) (bool, error) {
	t.Helper()
	der, key := ca.signPeer(p)
	plain, err := net.DialTimeout("unix", socket, meshtest.Deadline)
	if err != nil {
		return false, err
	}
	c := tls.Client(plain, &tls.Config{
		InsecureSkipVerify: true, // the server's certificate is no part of this
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	defer c.Close()
	status, body, err := exchange(c, p.Request.H1())
	if p.Request != nil && p.Request.Method == http.MethodHead && body == "" {
		body = "application"
	}
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return false, err
	case err != nil:
		return false, nil // the handshake, or the connection, was ended
	case status == http.StatusOK && body == "application":
		return true, nil
	case status == http.StatusForbidden:
		return false, nil
	}
	return false, fmt.Errorf("status %d, %q", status, body)
}

func roundTrip(c net.Conn, path string, headers ...string) (status int, body string, err error) {
	return exchange(c, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: web\r\n%s\r\n\r\n", path, strings.Join(append(headers, "Connection: close"), "\r\n")))
}

// exchange sends a request in HTTP/1.1.
func exchange(c net.Conn, request string) (status int, body string, err error) {
	if err := c.SetDeadline(time.Now().Add(meshtest.Deadline)); err != nil {
		return 0, "", err
	}
	if _, err := io.WriteString(c, request); err != nil {
		return 0, "", err
	}
	method, _, _ := strings.Cut(request, " ")
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

// signPeer makes the certificate of a peer of the table.
func (a *authority) signPeer(p decisiontable.Peer) ([]byte, any) {
	a.t.Helper()
	der, key := a.sign(func(c *x509.Certificate) {
		c.DNSNames = p.DNS
		c.Subject.CommonName = p.Subject
	}, p.URIs...)
	return der, key
}
