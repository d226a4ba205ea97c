package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// requestFile has the key and the request that somebody at a provider has to approve, which may take longer than this process lives.
const requestFile = "request.pem"

const (
	requestBlock   = "CERTIFICATE REQUEST"
	providerHeader = "Provider"
)

// keepRequest writes a request that is pending, once.
func (c *CA) keepRequest(r *upstreamRequest) error {
	if c.kept == r {
		return nil
	}
	key, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		return err
	}
	text := fmt.Appendf(nil, "%srequest%s%d\n", headWords, formatWords, format)
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: key})...)
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: requestBlock, Headers: map[string]string{providerHeader: r.provider}, Bytes: r.csr})...)
	a := c.authority
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.disk.write(requestFile, append(text, tail...)); err != nil {
		return err
	}
	c.kept = r
	return nil
}

// keptRequest is the request to a provider that was pending when the last process ended; nil: none. One that cannot be read is worth no
// more than a new one.
func (c *CA) keptRequest(name string) *upstreamRequest {
	a := c.authority
	a.mu.Lock()
	data, err := a.disk.read(requestFile)
	a.mu.Unlock()
	if err != nil || checkHead(profile{name: "request"}, data) != nil || !bytes.HasSuffix(data, []byte("\n"+tail)) {
		return nil
	}
	keyPEM, rest := pem.Decode(data)
	csrPEM, _ := pem.Decode(rest)
	if keyPEM == nil || csrPEM == nil || csrPEM.Headers[providerHeader] != name {
		return nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyPEM.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	csr, csrErr := x509.ParseCertificateRequest(csrPEM.Bytes)
	if err != nil || !ok || csrErr != nil || len(csr.URIs) != 1 || !key.PublicKey.Equal(csr.PublicKey) {
		c.log().Warn("a request to a provider cannot be read, another one is made", "file", filepath.Join(a.disk.path, requestFile))
		return nil
	}
	id, err := spiffeid.FromURI(csr.URIs[0])
	if err != nil {
		return nil
	}
	c.kept = &upstreamRequest{provider: name, id: id, key: key, csr: csr.Raw}
	return c.kept
}

// forgetRequest removes the request that was pending, once there is an answer.
func (c *CA) forgetRequest() error {
	if c.kept == nil || c.request == c.kept {
		return nil
	}
	a := c.authority
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.disk.remove(requestFile); err != nil {
		return err
	}
	c.kept = nil
	return nil
}
