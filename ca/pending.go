package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// requestFile has the keys and the requests that somebody at a provider has to approve, which may take longer than this process lives.
const requestFile = "request.pem"

const (
	requestBlock   = "CERTIFICATE REQUEST"
	providerHeader = "Provider"
)

// keepRequest writes a request that is pending, once.
func (c *CA) keepRequest(r *upstreamRequest) error {
	if c.kept[r.provider] == r {
		return nil
	}
	next := maps.Clone(c.kept)
	next[r.provider] = r
	return c.writeRequests(next)
}

// writeRequests makes kept those on the disk.
func (c *CA) writeRequests(kept map[string]*upstreamRequest) error {
	text := fmt.Appendf(nil, "%srequest%s%d\n", headWords, formatWords, format)
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		r := kept[name]
		key, err := x509.MarshalPKCS8PrivateKey(r.key)
		if err != nil {
			return err
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: key})...)
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: requestBlock, Headers: map[string]string{providerHeader: name}, Bytes: r.csr})...)
	}
	a := c.authority
	a.mu.Lock()
	defer a.unlock()
	var err error
	if len(kept) == 0 {
		err = a.disk.remove(requestFile)
	} else {
		err = a.disk.write(requestFile, append(text, tail...))
	}
	if err == nil {
		c.kept = kept
	}
	return err
}

// loadRequests reads those that were pending when the last process ended. What cannot be read is worth no more than a new one. Nobody else
// has c.
func (c *CA) loadRequests() {
	c.requests, c.kept = map[string]*upstreamRequest{}, map[string]*upstreamRequest{}
	d := c.authority.disk
	data, err := d.read(requestFile)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = checkHead(profile{name: "request"}, data)
	}
	if err == nil && !bytes.HasSuffix(data, []byte("\n"+tail)) {
		err = errors.New("is cut off")
	}
	for err == nil {
		var keyPEM, csrPEM *pem.Block
		if keyPEM, data = pem.Decode(data); keyPEM == nil {
			return
		}
		if csrPEM, data = pem.Decode(data); csrPEM == nil {
			err = errors.New("a key is without a request")
			break
		}
		var r *upstreamRequest
		if r, err = decodeRequest(keyPEM, csrPEM); err == nil {
			c.requests[r.provider], c.kept[r.provider] = r, r
		}
	}
	c.log().Warn("a request to a provider cannot be read, another one is made", "file", filepath.Join(d.path, requestFile), "err", err)
}

func decodeRequest(keyPEM, csrPEM *pem.Block) (*upstreamRequest, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(keyPEM.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("a key that is none") // the parser's error may quote it
	}
	csr, err := x509.ParseCertificateRequest(csrPEM.Bytes)
	if err != nil || len(csr.URIs) != 1 || !key.PublicKey.Equal(csr.PublicKey) {
		return nil, errors.New("a request that is none, or not of its key")
	}
	id, err := spiffeid.FromURI(csr.URIs[0])
	if err != nil {
		return nil, err
	}
	return &upstreamRequest{provider: csrPEM.Headers[providerHeader], id: id, key: key, csr: csr.Raw}, nil
}

// forgetRequests forgets those of which what was signed is used, and removes from the disk those that were answered.
func (c *CA) forgetRequests() error {
	signs := c.authority.signer()
	maps.DeleteFunc(c.requests, func(_ string, r *upstreamRequest) bool { return signs != nil && signs.key.Equal(r.key) })
	still := maps.Clone(c.kept)
	maps.DeleteFunc(still, func(name string, r *upstreamRequest) bool { return c.requests[name] != r })
	if len(still) == len(c.kept) {
		return nil
	}
	return c.writeRequests(still)
}
