package ca

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport/sallyport/certpath"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Upstream is the certificate authority behind the mesh's: a Vault, a plug-in, files that somebody renews, or the built-in root. It
// signs an intermediate once in its life, by which the leafs are signed here, or each leaf where nobody else may sign. It gets requests
// and never a key. Nothing that it returns is believed: the caller verifies a chain as Envoy will before anything is served by it, and
// decides when a new root is. It may be used by several goroutines.
type Upstream interface {
	// Sign returns the certificate for a request, and after it each one that signed the one before: no root, four at most. It
	// blocks until ctx ends or an answer is certain, which is ErrUnavailable, ErrDenied or ErrInvalid if it is none. After ErrPending
	// the same request, of the same key, is asked for again, by a process that was started later, too: who approves it may take days.
	Sign(ctx context.Context, r UpstreamRequest) ([]*x509.Certificate, error)
	// WatchRoots calls f with the roots that verifiers are to trust, self-signed, sorted, at least one, when they are known and
	// whenever they are others, until ctx ends; then it returns nil. What is known stays while the authority is away, which is never
	// an error. The error is that it cannot be watched at all, whatever happens.
	WatchRoots(ctx context.Context, f func([]*x509.Certificate)) error
}

// RootsProblem is what an Upstream may implement besides, to have the status say why nothing is known of its roots.
type RootsProblem interface {
	// RootsProblem is what went wrong when it was last asked for the roots; nil: nothing, or it was not asked yet. It does not block, and
	// may be called by several goroutines.
	RootsProblem() error
}

// UpstreamRequest is what an Upstream signs.
type UpstreamRequest struct {
	// CSR is in DER (PKCS #10), with the certificate's only URI SAN and whatever else is wished for. The caller made it or verified it.
	CSR []byte
	// Leaf is set if the certificate is that of a workload; else it is an intermediate, which signs leafs alone.
	Leaf bool
	// ID is the only URI SAN: that of a workload, or of the trust domain.
	ID spiffeid.ID
	// TTL is the life that is wished for. Less is good.
	TTL time.Duration
}

// Why an Upstream did not sign. What wraps them says where and how to mend it.
var (
	// ErrUnavailable is that nobody answers, or not now. Ask again later.
	ErrUnavailable = errors.New("the CA is unavailable")
	// ErrPending is an ErrUnavailable: the request is there, and somebody has to approve it.
	ErrPending = fmt.Errorf("%w: it waits for somebody's approval", ErrUnavailable)
	// ErrDenied is that it said no. Ask again when somebody has changed something, or at the next renewal.
	ErrDenied = errors.New("the CA denied")
	// ErrInvalid is that what it said is no answer, or what it was asked no question: one of the programs is wrong.
	ErrInvalid = certpath.ErrInvalid
)

// maxCertificates is how many certificates come from outside at once.
const maxCertificates = 64

// ParseCertificates reads what came from outside: certificates in PEM, of which it takes every one. A private key among them, or
// anything else, is ErrInvalid; so are no certificates at all, more than 64 and those of RSA keys of more than 8192 bits.
func ParseCertificates(text string) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	rest := []byte(text)
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil:
			return nil, fmt.Errorf("%w: not a certificate in PEM", ErrInvalid)
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return nil, fmt.Errorf("%w: a private key is among the certificates", ErrInvalid)
		case block.Type != "CERTIFICATE":
			return nil, fmt.Errorf("%w: a %.50q is among the certificates", ErrInvalid, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > certpath.MaxSignerRSA {
			return nil, fmt.Errorf("%w: an RSA key of %d bits, %d at most", ErrInvalid, key.N.BitLen(), certpath.MaxSignerRSA)
		}
		if list = append(list, cert); len(list) > maxCertificates {
			return nil, fmt.Errorf("%w: more than %d certificates", ErrInvalid, maxCertificates)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no certificate", ErrInvalid)
	}
	return list, nil
}
