package consul

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// leafPatience is how long a leaf may take beyond the time that was asked to wait: after a rotation of the roots the agent spreads the
// making of new leafs over 30 s, and asks again when the CA is busy.
const leafPatience = 75 * time.Second

// The agent keeps a leaf and makes the next one when its time has come or the roots have changed, whether somebody waits for it or not: so a leaf
// is asked for when that may have happened, and no query waits for each.
const (
	// rootSpread is over how much time the leafs are asked for after a change of the roots; the agent itself spreads making them over as much.
	rootSpread = 30 * time.Second
	// A leaf that is signed by another root than the active one is asked for again after followUp, or later if there are so many of them that they would be
	// more than one each followUpEach; after followUpFor without success as seldom as any other.
	followUp     = 2 * time.Second
	followUpEach = 5 * time.Millisecond
	followUpFor  = 2 * time.Minute
	// A leaf is asked for when sds.RenewAfter says so, and then again after each renewAgain of its time,
	// within these bounds.
	renewAgain                    = 0.02
	soonestRenewal, latestRenewal = 5 * time.Second, time.Hour
)

// leafWatch is when a leaf is asked for.
type leafWatch struct {
	agent *Agent
	svid  *sds.SVID
	at    time.Time // when its renewal is due
	old   time.Time // since when it is known to be signed by another root than the active one; zero: it is not
}

// next is when to ask again.
func (l *leafWatch) next() gap {
	now := time.Now()
	g := gap{time: soonestRenewal, spread: rootSpread}
	if l.svid == nil {
		return g
	}
	cert := l.svid.Certificates[0]
	g.time = min(max(time.Duration(renewAgain*float64(cert.NotAfter.Sub(cert.NotBefore))), soonestRenewal), latestRenewal)
	if due := l.at.Sub(now); due > 0 {
		g.time = due
	}
	if l.agent.signedByActive(l.svid.Certificates) {
		l.end()
		return g
	}
	if l.old.IsZero() {
		l.old = now
		l.agent.oldLeafs.Add(1)
	}
	if now.Sub(l.old) < followUpFor {
		g.time = min(g.time, max(followUp, time.Duration(l.agent.oldLeafs.Load())*followUpEach))
	}
	return g
}

// end says that the leaf is not an old one, or not any more.
func (l *leafWatch) end() {
	if !l.old.IsZero() {
		l.old = time.Time{}
		l.agent.oldLeafs.Add(-1)
	}
}

// take is a new leaf.
func (l *leafWatch) take(svid *sds.SVID) {
	cert := svid.Certificates[0]
	l.svid, l.at = svid, cert.NotBefore.Add(sds.RenewAfter(cert.NotAfter.Sub(cert.NotBefore), rand.Float64()))
}

// signedByActive reports whether a leaf comes from the active root, over intermediates or not, or that
// cannot be told.
func (a *Agent) signedByActive(chain []*x509.Certificate) bool {
	roots, ok := a.roots.Load()
	if !ok {
		return true
	}
	active, ok := roots.Active()
	if !ok || len(active.Certificate.SubjectKeyId) == 0 {
		return true
	}
	return slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		return bytes.Equal(c.AuthorityKeyId, active.Certificate.SubjectKeyId)
	})
}

// WatchSVID calls f with the leaf of id, fetched with the caller's token, now and after each rotation, until ctx ends; then it returns nil. It
// returns an error when the caller has no right to the leaf, or the identity is not of this mesh. While the agent is away it waits.
func (a *Agent) WatchSVID(ctx context.Context, c identity.Caller, id identity.Service, f func(*sds.SVID)) error {
	if td, ok := a.TrustDomain(); ok && td != id.TrustDomain {
		return fmt.Errorf("leaf for %s: the trust domain of the mesh is %s", id, td)
	}
	if err := id.Check(); err != nil {
		return fmt.Errorf("leaf for %q: %w", id.Service, err)
	}
	l := &leafWatch{agent: a}
	defer l.end()
	var last error
	denied := false
	q := query[*sds.SVID]{
		client: a.client, metrics: a.metrics, path: "/v1/agent/connect/ca/leaf/" + url.PathEscape(id.Service), caller: true, token: c.Token,
		patience: leafPatience, signal: a.roots.Changed, next: l.next, slots: a.client.leafSlots,
		// An agent that has made the leaf for one token gives it to every other: it asks for the right only when it makes one.
		permit: func(ctx context.Context) error {
			err, ok := a.acl.checkNow(ctx, c.Token, id.Service)
			denied = ok && err != nil
			return err
		},
		decode: func(body []byte) (*sds.SVID, error) { return decodeLeaf(body, id) },
		got: func(svid *sds.SVID, _ meta) {
			last = nil
			l.take(svid)
			f(svid)
		},
		same: func(meta) { last = nil },
		failed: func(err error) bool {
			if last == nil || last.Error() != err.Error() {
				a.log.Warn("leaf not read, the last one stays", "proxy", c.Proxy, "service", id.Name, "err", err)
			}
			last = err
			return denied || hasStatus(err, http.StatusForbidden)
		},
	}
	if err := q.run(ctx); err != nil {
		return fmt.Errorf("leaf for %s: %w", id, err)
	}
	return nil
}

// decodeLeaf reads a leaf, the intermediates that come with it (Consul's cross-signed roots among them), and its key.
func decodeLeaf(body []byte, id identity.Service) (*sds.SVID, error) {
	leaf, err := decodeJSON[api.LeafCert](body)
	if err != nil {
		return nil, errors.New("it is no leaf") // the decoder's error may quote the key
	}
	chain, err := certificates(leaf.CertPEM)
	if err != nil {
		return nil, err
	}
	if len(chain) == 0 {
		return nil, errors.New("it has no certificate")
	}
	key, err := privateKey(leaf.PrivateKeyPEM)
	if err != nil {
		return nil, err
	}
	if n := len(chain[0].URIs); n != 1 {
		return nil, fmt.Errorf("the leaf has %d URI SANs, and one is right", n)
	}
	got, err := spiffeid.FromURI(chain[0].URIs[0])
	if err != nil {
		return nil, err
	}
	if got != id.ID() {
		return nil, fmt.Errorf("the leaf is that of %s", got)
	}
	return &sds.SVID{Certificates: chain, PrivateKey: key}, nil
}

// mostCertificates bounds a chain and a list of roots.
const mostCertificates = 100

// certificates reads all certificates of a PEM text.
func certificates(text string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		if out = append(out, c); len(out) > mostCertificates {
			return nil, fmt.Errorf("it has more than %d certificates", mostCertificates)
		}
	}
}

// privateKey reads a key as Consul and its CA providers write them: SEC1, PKCS#1 or PKCS#8, EC or RSA. No error quotes it.
func privateKey(text string) (crypto.Signer, error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("it has no private key")
		}
		var key any
		var err error
		switch block.Type {
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		default: // "EC PARAMETERS" comes before some
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("its private key (%s) cannot be read", block.Type)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("its private key (%s) cannot sign", block.Type)
		}
		return signer, nil
	}
}

// decodeRoots reads the roots, and refuses a list that would leave nobody to trust.
func decodeRoots(body []byte) (*api.CARootList, error) {
	list, err := decodeJSON[*api.CARootList](body)
	switch {
	case err != nil:
		return nil, err
	case list == nil || len(list.Roots) == 0:
		return nil, errors.New("it has no roots: is Connect enabled?")
	}
	if _, err := rootsOf(list); err != nil {
		return nil, err
	}
	return list, nil
}

// mergeRoots is what is known after an answer that may lack some.
func mergeRoots(old, now *api.CARootList) *api.CARootList {
	if old.TrustDomain != now.TrustDomain {
		return now
	}
	all := *now
	all.Roots = merge(old.Roots, now.Roots, func(r *api.CARoot) string {
		if r == nil {
			return ""
		}
		return r.ID
	})
	return &all
}

// rootsOf are the active root and those that it replaced, which Consul keeps as long as their leafs
// live. Intermediates come with the leafs.
func rootsOf(list *api.CARootList) (*sds.Roots, error) {
	td, err := spiffeid.TrustDomainFromString(list.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("trust domain %.100q: %w", list.TrustDomain, err)
	}
	active := ""
	var roots []sds.Root
	for _, r := range list.Roots {
		if r == nil {
			continue
		}
		all, err := certificates(r.RootCertPEM)
		if err != nil {
			return nil, fmt.Errorf("root %.60q: %w", r.Name, err)
		}
		if r.Active {
			active = r.ID
		}
		for _, c := range all {
			roots = append(roots, sds.Root{ID: r.ID, Certificate: c})
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("its roots have no certificates")
	}
	return sds.NewRoots(td, active, roots), nil
}

// WatchRoots calls f with the roots now and after each change, until ctx ends; then it returns nil. Run
// reads them: without it there are none.
func (a *Agent) WatchRoots(ctx context.Context, f func(*sds.Roots)) error {
	a.roots.Watch(ctx, f)
	return nil
}
