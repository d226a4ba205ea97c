package sds

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Leaf is somebody's use of a leaf certificate. It is made by Credentials.Watch and ends with Close.
type Leaf struct {
	credentials *Credentials
	watch       *watch
	key         watchKey
	wake        func()
	closed      sync.Once
}

// Secret returns the leaf with its private key as an Envoy secret, named LeafSecret of the identity; nil until there is one. The
// version is the hash of its bytes. It does not block, and returns the last one after Close.
func (l *Leaf) Secret() *discoveryv3.Resource {
	if s := l.watch.served.Load(); s != nil {
		return s.secret
	}
	return nil
}

// SVID returns what Secret is made of; nil until there is one. Printing an SVID prints its key: do not.
func (l *Leaf) SVID() *x509svid.SVID {
	if s := l.watch.served.Load(); s != nil {
		return s.svid
	}
	return nil
}

// Close ends this use; the last one ends the watch. It does not wait for it and may be called more than once.
func (l *Leaf) Close() { l.closed.Do(func() { l.credentials.release(l) }) }

// String is the identity whose leaf it is; neither key nor token is printed.
func (l *Leaf) String() string { return l.key.id.String() }

// GoString is String.
func (l *Leaf) GoString() string { return l.String() }

// LogValue is String.
func (l *Leaf) LogValue() slog.Value { return slog.StringValue(l.String()) }

// leafSecret makes the secret of a leaf that passed verify.
func leafSecret(id identity.Service, svid *x509svid.SVID) (*discoveryv3.Resource, error) {
	key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		// The error may quote what it was given; the type is all that helps.
		return nil, fmt.Errorf("leaf for %s: a private key of type %T cannot be handed to Envoy", id, svid.PrivateKey)
	}
	var chain []byte
	for _, cert := range svid.Certificates {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return pack(&tlsv3.Secret{
		Name: id.LeafSecret(),
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(chain),
			PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
		}},
	})
}

func inline(text []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(text)}}
}
