package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/latest"
)

// fakeUpstream is a CA behind the mesh's, in memory.
type fakeUpstream struct {
	t     testing.TB
	roots latest.Value[[]*x509.Certificate]

	mu     sync.Mutex
	away   error
	signer *foreignCA
	asked  int
	keys   []crypto.PublicKey // of the requests
}

type foreignCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var fakeSerial = struct {
	sync.Mutex
	n int64
}{n: 1000}

func nextSerial() *big.Int {
	fakeSerial.Lock()
	defer fakeSerial.Unlock()
	fakeSerial.n++
	return big.NewInt(fakeSerial.n)
}

func newForeignCA(t testing.TB, life time.Duration) *foreignCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial := nextSerial()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: fmt.Sprintf("foreign root %d", serial)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return &foreignCA{signed(t, template, template, key.Public(), key), key}
}

// renewed is ca with the same key and another certificate.
func (ca *foreignCA) renewed(t testing.TB, life time.Duration) *foreignCA {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: nextSerial(), RawSubject: ca.cert.RawSubject, NotBefore: ca.cert.NotBefore.Add(time.Minute), NotAfter: time.Now().Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return &foreignCA{signed(t, template, template, ca.key.Public(), ca.key), ca.key}
}

func signed(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Error(err)
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Error(err)
	}
	return cert
}

func newFakeUpstream(t testing.TB) *fakeUpstream {
	t.Helper()
	u := &fakeUpstream{t: t}
	root := newForeignCA(t, 10*365*24*time.Hour)
	u.use(root)
	u.roots.Set([]*x509.Certificate{root.cert})
	return u
}

func (u *fakeUpstream) use(ca *foreignCA) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.signer = ca
}

func (u *fakeUpstream) set(away error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.away = away
}

func (u *fakeUpstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked
}

func (u *fakeUpstream) Sign(_ context.Context, r UpstreamRequest) ([]*x509.Certificate, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	u.keys = append(u.keys, csr.PublicKey)
	switch {
	case u.away != nil:
		return nil, u.away
	case csr.CheckSignature() != nil || len(csr.URIs) != 1 || csr.URIs[0].String() != r.ID.String():
		return nil, fmt.Errorf("%w: not as asked", ErrInvalid)
	}
	template := &x509.Certificate{
		SerialNumber: nextSerial(), Subject: csr.Subject, URIs: csr.URIs, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(r.TTL),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if r.Leaf {
		p := leafProfile()
		template.IsCA, template.MaxPathLenZero, template.KeyUsage, template.ExtKeyUsage = false, false, p.usage, p.extended
	}
	if template.NotAfter.After(u.signer.cert.NotAfter) {
		template.NotAfter = u.signer.cert.NotAfter
	}
	return []*x509.Certificate{signed(u.t, template, u.signer.cert, csr.PublicKey, u.signer.key)}, nil
}

func (u *fakeUpstream) WatchRoots(ctx context.Context, f func([]*x509.Certificate)) error {
	u.roots.Watch(ctx, func(roots []*x509.Certificate) { f(slices.Clone(roots)) })
	return nil
}
