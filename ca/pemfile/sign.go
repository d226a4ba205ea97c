package pemfile

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// sign makes a leaf, as the built-in CA's are but for the signature, which is of whatever kind the key is. It ends with its signer.
func (s *state) sign(public crypto.PublicKey, id spiffeid.ID, ttl time.Duration, now time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 159))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), NotBefore: now.Add(-backdate), NotAfter: now.Add(ttl), URIs: []*url.URL{id.URL()},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	for _, c := range s.chain {
		if template.NotAfter.After(c.NotAfter) {
			template.NotAfter = c.NotAfter
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.chain[0], public, s.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
