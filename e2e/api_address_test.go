//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConsulAPIAddress: without ACLs nobody gets a leaf over TCP, with a token or without, unless a flag says so; other machines get to
// the API over TLS alone.
func TestConsulAPIAddress(t *testing.T) {
	t.Parallel()
	ip := ownAddress(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool := certificateOf(t, ip, cert, key)
	for _, tt := range []struct {
		flags []string
		want  int
	}{
		{nil, http.StatusForbidden},
		{[]string{"--api-without-acls"}, http.StatusOK},
	} {
		t.Run(fmt.Sprint(tt.flags), func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: meshtest.StartConsul(t, meshtest.Agent{})})
			m.Add(meshtest.Service{Name: "web", Local: serveEcho(t, "")})
			address := net.JoinHostPort(ip, strconv.Itoa(m.Port()))
			m.SetFlags(append([]string{"--api-address", address, "--api-tls-cert", cert, "--api-tls-key", key}, tt.flags...)...)
			m.Serve()
			c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: 20 * time.Second}
			t.Cleanup(c.CloseIdleConnections)
			ask := func(url, token string) (int, string, error) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+address+"/v1/agent/connect/ca/leaf/web", http.NoBody)
				if err != nil {
					return 0, "", err
				}
				req.Header.Set("X-Consul-Token", token)
				res, err := c.Do(req)
				if err != nil {
					return 0, "", err
				}
				defer res.Body.Close()
				b, err := io.ReadAll(res.Body)
				return res.StatusCode, string(b), err
			}
			for _, token := range []string{"", "anonymous", "00000000-dead-4000-8000-000000000000"} {
				meshtest.Await(t, "an answer to the token "+token, func() error {
					code, body, err := ask("https://", token)
					if err == nil && (code != tt.want || strings.Contains(body, "PRIVATE KEY") != (code == http.StatusOK)) {
						err = fmt.Errorf("%d %.100s", code, body)
					}
					return err
				})
			}
			if code, body, err := ask("http://", ""); err != nil || code != http.StatusBadRequest || strings.Contains(body, "KEY") {
				t.Errorf("without TLS: %d %.100s %v", code, body, err)
			}
		})
	}
}

// TestConsulOwnQuestions: beside Consul authorize says which intention decided, and nobody signs certificate requests.
func TestConsulOwnQuestions(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: meshtest.StartConsul(t, meshtest.Agent{})})
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	m.Intend("db", meshtest.Intentions{"web": "allow"})
	m.Serve()
	api := apiOf(t, m)
	meshtest.Await(t, "the intention decides", func() error {
		var got struct {
			Authorized, Default bool
			Intention, Origin   string
			Change              uint64
		}
		question := map[string]any{
			"Target": "db", "ClientCertURI": m.URI("web"), "ClientCertSerial": "0a", "Method": "GET", "Path": "/", "Headers": map[string][]string{"a": {"b"}},
		}
		err := api.ask(http.MethodPost, "/v1/sallyport/authorize", "", question, &got)
		if err == nil && (!got.Authorized || got.Default || got.Intention != "web => db (allow)" || got.Origin != "service-intentions/db" || got.Change == 0) {
			err = fmt.Errorf("%+v", got)
		}
		return err
	})
	err := api.ask(http.MethodPost, "/v1/sallyport/leaf/db", "", map[string]string{"CSR": ""}, nil)
	if err == nil || !strings.Contains(err.Error(), "501") || !strings.Contains(err.Error(), "GET /v1/agent/connect/ca/leaf/db") {
		t.Errorf("a certificate request: %v", err)
	}
}

// certificateOf makes a certificate of an address that signs itself, in files, and the pool that trusts it.
func certificateOf(t *testing.T, ip, cert, key string) *x509.CertPool {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(ip)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	inPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(cert, inPEM, 0o600), os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}), 0o600)); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(inPEM)
	return pool
}
