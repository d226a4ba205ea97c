package certpath

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestEnvoyFollowsChains holds real Envoys to the table of chains, of callers and of servers, plain and with the SPIFFE validator, and
// to what verifying knows of them beside it. Each bundle is a listener of one Envoy, on a Unix socket, which echoes what callers send
// that it lets in; and for each chain a listener that leads to a server that shows it.
func TestEnvoyFollowsChains(t *testing.T) {
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		t.Run(version, func(t *testing.T) {
			binary := envoytest.Binary(t, version)
			dir, err := os.MkdirTemp("", "chains") // t's own may be too long for a socket
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			now := time.Now()
			p := &pki{t: t, now: now}
			edited := func(name string, edit func(*x509.Certificate)) *pki {
				return &pki{t: t, now: now, edit: map[string]func(*x509.Certificate){name: edit}}
			}
			root := p.by("root1", "root1")
			twin := edited("root1 by root1", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }).by("root1", "root1")
			plain := edited("root1 by root1", func(c *x509.Certificate) { c.KeyUsage = 0 }).by("root1", "root1")
			bundles := append(rotationBundles(p), []*x509.Certificate{twin, root}, []*x509.Certificate{root, twin}, []*x509.Certificate{plain})
			var listeners []any
			for i, bundle := range bundles {
				listeners = append(listeners, echoing(t, p, socketOf(dir, i, false), rootsOf(bundle, false)), echoing(t, p, socketOf(dir, i, true), rootsOf(bundle, true)))
			}
			for depth := 2; depth <= 3; depth++ { // certificates above a leaf
				context := rootsOf([]*x509.Certificate{root}, false)
				context["max_verify_depth"] = depth
				listeners = append(listeners, echoing(t, p, socketOf(dir, len(bundles)+depth, false), context))
			}
			chains := rotationChains(p)
			to, address := &dialling{dir: dir}, echoServer(t, dir, p, chains)
			for n := range chains {
				for i, bundle := range rotationBundles(p) {
					to.add(address, n, i, bundle, false)
					to.add(address, n, i, bundle, true)
				}
			}
			runEnvoy(t, binary, dir, append(listeners, to.listeners...), to.clusters)

			for n, tt := range chains {
				for i, want := range tt.accepts {
					for _, validator := range []bool{false, true} {
						if got := letIn(t, socketOf(dir, i, validator), tt.chain, p.key("leaf")); got != (want == 'y') {
							t.Errorf("%s, bundle %d, validator %t: let in: %t", tt.name, i, validator, got)
						}
						if got := reached(t, to.socket(n, i, validator)); got != (want == 'y') {
							t.Errorf("%s, bundle %d, validator %t: a server with it is reached: %t", tt.name, i, validator, got)
						}
					}
				}
			}
			// Which of two it takes is a question of the version: so neither may be bad.
			chain := chains[0].chain
			first, last := letIn(t, socketOf(dir, 4, false), chain, p.key("leaf")), letIn(t, socketOf(dir, 5, false), chain, p.key("leaf"))
			if first != (version == envoytest.Oldest) || last == first {
				t.Errorf("an expired twin first: let in: %t, last: %t", first, last)
			}
			for _, validator := range []bool{false, true} {
				if !letIn(t, socketOf(dir, 6, validator), chain, p.key("leaf")) {
					t.Errorf("under a root without key usages, validator %t: refused", validator)
				}
			}
			// Two above a leaf keep out what a nameless leaf signs that was issued as a CA, which the path length of the intermediate does not
			// everywhere; and whoever was not told of a new root would be cut off by two, whatever it is told later.
			nameless := &pki{t: t, now: now, keys: map[string]string{"": "int2"}, edit: map[string]func(*x509.Certificate){
				"int1 by root1": func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true },
			}}
			below := []*x509.Certificate{nameless.by("leaf", ""), nameless.by("", "int1"), nameless.by("int1", "root1")}
			for _, tt := range []struct {
				name  string
				depth int
				chain []*x509.Certificate
				want  bool
			}{
				{"below a nameless leaf", 2, below, false},
				{"below a nameless leaf", 3, below, version == envoytest.Oldest},
				{"cross-signed", 2, chains[2].chain, false},
				{"cross-signed", 3, chains[2].chain, true},
				{"of one intermediate", 2, chains[0].chain, true},
			} {
				if got := letIn(t, socketOf(dir, len(bundles)+tt.depth, false), tt.chain, p.key("leaf")); got != tt.want {
					t.Errorf("a chain %s, %d certificates above a leaf: let in: %t", tt.name, tt.depth, got)
				}
			}
			domain := func(names ...string) func(*x509.Certificate) {
				return func(c *x509.Certificate) { c.PermittedDNSDomainsCritical, c.PermittedURIDomains = true, names }
			}
			usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
				return func(c *x509.Certificate) { c.ExtKeyUsage = u }
			}
			for _, tt := range []struct {
				name, of string
				edit     func(*x509.Certificate)
				want     bool
			}{
				{"permitted", "int1 by root1", domain(testDomain), true},
				{"what is below is permitted", "int1 by root1", domain(".consul"), true},
				{"for Go it would be permitted", "int1 by root1", domain("consul"), false},
				{"a leaf for anything", "leaf by int1", usage(x509.ExtKeyUsageAny), false},
				{"a CA for anything", "int1 by root1", usage(x509.ExtKeyUsageAny), false},
				{"a CA for both sides", "int1 by root1", usage(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth), true},
				{"the issuer in capitals", "leaf by int1", func(c *x509.Certificate) { c.Issuer.CommonName = "INT1" }, true},
				{"a critical extension that Go knows", "leaf by int1", criticalCRL, false},
				{"another key ID", "leaf by int1", func(c *x509.Certificate) { c.AuthorityKeyId = []byte("other") }, false},
			} {
				e := edited(tt.of, tt.edit)
				if got := letIn(t, socketOf(dir, 0, false), []*x509.Certificate{e.by("leaf", "int1"), e.by("int1", "root1")}, p.key("leaf")); got != tt.want {
					t.Errorf("%s: let in: %t", tt.name, got)
				}
			}
		})
	}
}

func socketOf(dir string, bundle int, validator bool) string {
	return filepath.Join(dir, fmt.Sprintf("%d-%t", bundle, validator))
}

type object = map[string]any

// echoing is a listener that lets in whoever a validation context verifies.
func echoing(t *testing.T, p *pki, socket string, context object) object {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(p.key("leaf"))
	if err != nil {
		t.Fatal(err)
	}
	return object{
		"name": socket, "address": object{"pipe": object{"path": socket}},
		"filter_chains": []any{object{
			"transport_socket": object{"name": "tls", "typed_config": typed("transport_sockets.tls.v3.DownstreamTlsContext", object{
				"require_client_certificate": true,
				"common_tls_context": object{
					"tls_certificates": []any{object{
						"certificate_chain": inline(inPEM(p.by("leaf", "int1"))),
						"private_key":       inline(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))),
					}},
					"validation_context": context,
				},
			})},
			"filters": []any{object{"name": "echo", "typed_config": typed("filters.network.echo.v3.Echo", object{})}},
		}},
	}
}

func inline(s string) object { return object{"inline_string": s} }

func typed(name string, fields object) object {
	fields["@type"] = "type.googleapis.com/envoy.extensions." + name
	return fields
}

// rootsOf is a validation context with the roots of bundle, plain or those of testDomain for the SPIFFE validator.
func rootsOf(bundle []*x509.Certificate, validator bool) object {
	var roots strings.Builder
	for _, c := range bundle {
		roots.WriteString(inPEM(c))
	}
	if !validator {
		return object{"trusted_ca": inline(roots.String())}
	}
	return object{"custom_validator_config": object{
		"name": "envoy.tls.cert_validator.spiffe",
		"typed_config": typed("transport_sockets.tls.v3.SPIFFECertValidatorConfig", object{
			"trust_domains": []any{object{"name": testDomain, "trust_bundle": inline(roots.String())}},
		}),
	}}
}

// runEnvoy runs an Envoy until the test ends, and waits until it is ready.
func runEnvoy(t *testing.T, binary, dir string, listeners, clusters []any) {
	t.Helper()
	admin := filepath.Join(dir, "admin")
	b, err := json.Marshal(object{"admin": object{"address": object{"pipe": object{"path": admin}}}, "static_resources": object{"listeners": listeners, "clusters": clusters}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	meshtest.Start(t, "envoy", filepath.Join(dir, "log"), exec.Command(binary, "--config-path", path, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"))
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", admin) },
	}}
	meshtest.Await(t, "Envoy is ready", func() error {
		response, err := client.Get("http://envoy/ready")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
}

// letIn reports whether a caller that shows chain gets an answer.
func letIn(t *testing.T, socket string, chain []*x509.Certificate, key crypto.Signer) bool {
	t.Helper()
	plain, err := net.DialTimeout("unix", socket, meshtest.Deadline)
	if err != nil {
		t.Fatal(err)
	}
	certificate := &tls.Certificate{PrivateKey: key}
	for _, c := range chain {
		certificate.Certificate = append(certificate.Certificate, c.Raw)
	}
	conn := tls.Client(plain, &tls.Config{
		InsecureSkipVerify:   true, // the caller is tried, not the Envoy
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil },
	})
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(meshtest.Deadline)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 2)
	if _, err = conn.Write([]byte("hi")); err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("neither let in nor refused: %v", err)
	}
	return err == nil && string(answer) == "hi"
}
