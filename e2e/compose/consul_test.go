//go:build e2e

package compose

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// newRoot gives Consul's CA a new key, and with it a new root: the way in which Consul is made to renew leafs early.
func newRoot(t *testing.T, consul meshtest.API) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	config := map[string]any{"Provider": "consul", "Config": map[string]any{"PrivateKey": block, "RootCert": ""}}
	if err := consul.Do(http.MethodPut, "/v1/connect/ca/configuration", config, nil); err != nil {
		t.Fatal(err)
	}
}
