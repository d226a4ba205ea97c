package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// candidate is what a provider has signed: an intermediate, or a leaf that nobody is given if it signs each one.
type candidate struct {
	signer *signer
	// leaf is the leaf and its signers; nil if there is a signer.
	leaf []*x509.Certificate
	key  crypto.PublicKey
	root *x509.Certificate
	made time.Time
}

// usable reports whether c can be activated as one of the roots that r brings.
func (c *candidate) usable(r *rotation, now time.Time) bool {
	return c != nil && slices.Contains(r.Next, fingerprint(c.root)) && (c.signer != nil && valid(c.signer.cert, now) == nil || c.signer == nil && now.Sub(c.made) < askAgain)
}

// probe is a chain by c, and what it is to be verified as.
func (c *CA) probeOf(n *candidate, cross *x509.Certificate, now time.Time) ([]*x509.Certificate, certpath.Wanted, error) {
	a := c.authority
	id, err := spiffeid.FromSegments(a.trustDomain, "sallyport", "probe")
	if err != nil {
		return nil, certpath.Wanted{}, err
	}
	if n.signer == nil {
		chain := slices.Clone(n.leaf)
		if cross != nil {
			chain = append(chain, cross)
		}
		return chain, certpath.Wanted{ID: id, Key: n.key, Now: n.made}, nil
	}
	public := n.signer.key.Public() // any will do: nobody is given it
	chain, err := n.signer.issue(leafProfile(), id, public, a.leafTTL, now, cross)
	return chain, certpath.Wanted{ID: id, Key: public, Now: now}, err
}

const (
	// askFor bounds a question to a provider.
	askFor = time.Minute
	// askAgain is after how long a provider that has a new root is asked whether it signs under it by now.
	askAgain = 6 * time.Hour
	// firstAsk and longestAsk bound the pauses after failures: those that somebody has to mend are asked less often.
	firstAsk, longestAsk, longestDenied = 5 * time.Second, 10 * time.Minute, time.Hour
)

// follow does what the providers ask for: their roots, and what they are to sign.
func (c *CA) follow(ctx context.Context, now time.Time) error {
	return errors.Join(c.followRoots(now), c.followSigning(ctx, now))
}

// asking is how it stands with what a provider is to sign. It is made when there is something, and forgotten when there is nothing.
type asking struct {
	failed   error
	failures int
	again    time.Time // when it is asked
}

// followSigning has providers sign what is due.
func (c *CA) followSigning(ctx context.Context, now time.Time) error {
	a := c.authority
	a.mu.Lock()
	rec, s, asks := a.rec, a.intermediate, c.askNow
	c.askNow = false
	a.unlock()
	names := c.toAsk(rec, s, asks, now)
	maps.DeleteFunc(c.asked, func(name string, _ *asking) bool { return !slices.Contains(names, name) })
	var problems []error
	for _, name := range names {
		of := c.asked[name]
		if of == nil {
			of = &asking{}
			c.asked[name] = of
		}
		if asks || !now.Before(of.again) {
			c.askAndTake(ctx, name, of)
		}
		problems = append(problems, of.failed)
	}
	return errors.Join(problems...)
}

// askAndTake has a provider sign, and uses what it has signed.
func (c *CA) askAndTake(ctx context.Context, name string, of *asking) {
	n, err := c.ask(ctx, name, c.cfg.now())
	if err == nil {
		err = c.take(name, n, c.cfg.now())
	}
	now, no := c.cfg.now(), errors.Is(err, ErrDenied) || errors.Is(err, ErrInvalid)
	if no || err == nil && n.signer == nil {
		delete(c.requests, name)
	}
	switch {
	case ctx.Err() != nil: // that is why there is an error
	case err != nil:
		of.failures++
		longest, first := longestAsk, firstAsk
		if no {
			longest, first = longestDenied, time.Minute
		}
		wait := backoff.Delay(of.failures, first, longest)
		of.again, of.failed = now.Add(wait), fmt.Errorf("%s does not sign: %w", name, err)
		c.log().Error("a provider does not sign, trying again", "provider", name, "err", err, "count", of.failures, "duration", wait)
	case n.signer != nil:
		*of = asking{again: now.Add(max(2*firstAsk, min(askAgain, n.signer.ends().Sub(now)/4)))}
	default:
		*of = asking{again: now.Add(askAgain)}
	}
}

// toAsk are the providers that are to sign something now: the one to which a rotation goes, and the one that signs, if it is another; who
// waits for the former needs the latter. asks: somebody wishes it.
func (c *CA) toAsk(rec record, s *signer, asks bool, now time.Time) (names []string) {
	if rot := rec.Rotation; rot != nil && rot.Phase == Preparing && rot.To != Builtin && !c.next.usable(rot, now) {
		if rot.To != rec.Provider || asks || rec.isTold() {
			names = append(names, rot.To)
		}
	}
	u, ok := c.cfg.Upstreams[rec.Provider]
	switch {
	case !ok || slices.Contains(names, rec.Provider):
	case rec.Active == "" && len(rec.Roots) == 0: // what it signs would be put aside: its roots are not known yet
	case asks || rec.Active == "" || !u.EachLeaf && (s == nil || valid(s.cert, now) != nil || !now.Before(s.half())):
		names = append(names, rec.Provider)
	}
	return names
}

// ask has a provider sign an intermediate, or a leaf if it signs each one, and verifies the form of the answer.
func (c *CA) ask(ctx context.Context, name string, now time.Time) (*candidate, error) {
	a, u := c.authority, c.cfg.Upstreams[name]
	if u.Upstream == nil {
		return nil, c.cfg.notConfigured(name)
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	req, err := c.requestFor(name, u.EachLeaf)
	if err != nil {
		return nil, err
	}
	r := UpstreamRequest{CSR: req.csr, Leaf: u.EachLeaf, ID: req.id, TTL: c.cfg.IntermediateTTL}
	if u.EachLeaf {
		r.TTL = c.cfg.LeafTTL
	}
	chain, err := u.Upstream.Sign(ctx, r)
	if err != nil {
		if errors.Is(err, ErrPending) {
			err = errors.Join(err, c.keepRequest(req))
		}
		return nil, err
	}
	key, ok := firstKey(chain)
	if !ok || !key.Equal(req.key.Public()) {
		return nil, fmt.Errorf("%w: the certificate is for another key than the request's", ErrInvalid)
	}
	rec := a.record()
	roots := rec.certificates(all)
	root := anchorOf(chain, roots)
	if root == nil {
		return nil, fmt.Errorf("%w: the chain ends at %.200q, which is none of the roots that it names: it is put aside", ErrInvalid, chain[len(chain)-1].Issuer)
	}
	n := &candidate{leaf: chain, key: req.key.Public(), root: root, made: now}
	if !u.EachLeaf {
		n.leaf, n.signer = nil, &signer{pair: &pair{cert: chain[0], key: req.key}, above: chain[1:], root: root}
		uris := chain[0].URIs
		if len(uris) > 1 || len(uris) == 1 && uris[0].String() != a.uri().String() {
			return nil, fmt.Errorf("%w: the intermediate is for %.200q, want none or %s", ErrInvalid, uris[0], a.uri())
		}
	}
	bundle, _ := certpath.Bundle(roots, true, now)
	return n, c.probe(n, nil, bundle, now)
}

func firstKey(chain []*x509.Certificate) (interface{ Equal(crypto.PublicKey) bool }, bool) {
	if len(chain) == 0 {
		return nil, false
	}
	key, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return key, ok
}

// take uses what a provider has signed, at once or when all are told of its root.
func (c *CA) take(name string, n *candidate, now time.Time) error {
	a := c.authority
	a.mu.Lock()
	defer a.unlock()
	sha := fingerprint(n.root)
	switch rot := a.rec.Rotation; {
	case rot != nil && rot.Phase == Preparing && rot.To == name && slices.Contains(rot.Next, sha):
		if name == a.rec.Provider && !a.rec.isTold() {
			c.log().Info("what a provider signed under its new root is put aside until all are told of it", "provider", name)
		}
		c.next = n
		return nil
	case a.rec.Provider != name:
		return nil // the rotation has ended meanwhile
	case a.rec.Active == "":
		return c.first(n)
	case sha == a.rec.Active:
		if n.signer == nil {
			return nil
		}
		if err := a.replace(n.signer, now); err != nil {
			return err
		}
		c.log().Info("new intermediate certificate", "audit", "rotation", "provider", name, "expires", n.signer.cert.NotAfter)
		return nil
	case rot != nil && rot.Phase == Activating && a.rec.isToldOf(sha):
		return c.another(n, now)
	case rot == nil: // it signs under another one of its roots
		c.next = n
		return c.prepareUpstream(a.rec, []*x509.Certificate{n.root}, rotation{From: name, To: name, Reason: "the provider signs under another root", Started: now.Round(0), Since: now.Round(0)})
	}
	return fmt.Errorf("%w: it signs under a root that is not in use while another rotation runs: it is put aside", ErrInvalid)
}

// another goes on with a rotation under another root, of which all were told, too: the provider has changed to it meanwhile. a.mu is held.
func (c *CA) another(n *candidate, now time.Time) error {
	a := c.authority
	var oldRoot *pair
	for _, r := range a.rec.Roots {
		if own := a.pairs[fingerprint(r.Certificate.Certificate)]; own != nil && r.State == old && r.Provider == a.rec.Rotation.From {
			oldRoot = own
		}
	}
	next, err := c.succeed(a.rec, n, oldRoot, now)
	if err != nil {
		return err
	}
	return c.activateNow(a.rec, next, now)
}

// first makes the root under which a provider has signed for the first time the active one. a.mu is held.
func (c *CA) first(n *candidate) error {
	a := c.authority
	next := a.rec.clone()
	next.Active = fingerprint(n.root)
	for i, r := range next.Roots {
		if fingerprint(r.Certificate.Certificate) == next.Active {
			next.Roots[i].State = active
		}
	}
	needs := map[string][]byte{}
	if n.signer != nil {
		content, err := encode(intermediateProfile(), n.signer.pair, n.signer.above)
		if err != nil {
			return err
		}
		needs[intermediateFile] = content
	}
	if err := a.commit(next, needs); err != nil {
		return err
	}
	a.intermediate = n.signer
	return nil
}

// upstreamRequest is what a provider is asked for, until what it has signed is used.
type upstreamRequest struct {
	provider string
	id       spiffeid.ID
	key      *ecdsa.PrivateKey
	csr      []byte
}

// requestFor is the request of which nothing is used yet, or a new one.
func (c *CA) requestFor(name string, leaf bool) (*upstreamRequest, error) {
	a := c.authority
	id := a.trustDomain.ID()
	if leaf {
		var err error
		if id, err = spiffeid.FromSegments(a.trustDomain, "sallyport", "probe"); err != nil {
			return nil, err
		}
	}
	if r := c.requests[name]; r != nil && r.id == id {
		return r, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}
	if !leaf {
		if err := asIntermediate(template); err != nil {
			return nil, err
		}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, err
	}
	r := &upstreamRequest{provider: name, id: id, key: key, csr: csr}
	c.requests[name] = r
	return r, nil
}

// asIntermediate makes template ask for an intermediate which signs leafs alone, with a name that no other has.
func asIntermediate(template *x509.CertificateRequest) error {
	serial, err := newSerial()
	if err != nil {
		return err
	}
	template.Subject = pkix.Name{Organization: []string{"sallyport"}, CommonName: fmt.Sprintf("sallyport intermediate %.8x", serial.Bytes())}
	constraints, err := asn1.Marshal(struct {
		CA      bool
		PathLen int
	}{CA: true})
	if err != nil {
		return err
	}
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{1<<(7-certSign) | 1<<(7-crlSign)}, BitLength: crlSign + 1})
	if err != nil {
		return err
	}
	template.ExtraExtensions = []pkix.Extension{
		{Id: basicConstraints, Critical: true, Value: constraints},
		{Id: keyUsage, Critical: true, Value: usage},
	}
	return nil
}
