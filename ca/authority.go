package ca

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// authority signs certificates: roots and an intermediate under the active one, kept in a directory. Both CA and Endpoint are one; only
// a CA's roots change.
type authority struct {
	disk                              *disk
	log                               *slog.Logger
	trustDomain                       spiffeid.TrustDomain
	rootTTL, intermediateTTL, leafTTL time.Duration

	// mu is held while the disk is written to, which may hang: who only reads takes shown.
	mu sync.Mutex
	// shown is what unlock left: what of the fields below is on the disk.
	shown atomic.Pointer[shown]
	// rec is what the disk says; commit replaces it.
	rec record
	// version is how often rec was replaced.
	version int
	// pairs are the roots whose keys are here, by the fingerprints of their certificates.
	pairs map[string]*pair
	// intermediate signs; nil: there is none, as a provider has not signed one yet, or signs each leaf.
	intermediate *signer
	// failed is why the last renewal of the intermediate failed, and retry when the next may be
	// tried; failed is nil if it did not.
	failed error
	retry  time.Time
	// unsettled is that the directory is not as files says.
	unsettled bool
}

// shown is what of an authority is read without its lock.
type shown struct {
	rec          record
	version      int
	intermediate *signer
	failed       error
}

// show has those who only read see what was changed. a.mu is held.
func (a *authority) show() {
	a.shown.Store(&shown{rec: a.rec, version: a.version, intermediate: a.intermediate, failed: a.failed})
}

// unlock shows what was changed, and releases mu.
func (a *authority) unlock() {
	a.show()
	a.mu.Unlock()
}

// signer is an intermediate, those above it, and the root at which they end.
type signer struct {
	*pair
	above []*x509.Certificate
	root  *x509.Certificate
}

// chain is what comes after a leaf.
func (s *signer) chain() []*x509.Certificate {
	return append([]*x509.Certificate{s.cert}, s.above...)
}

// ends is when the first of s and those above it does.
func (s *signer) ends() time.Time {
	end := s.root.NotAfter
	for _, c := range s.chain() {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// half is when half of the life of s and those above it is over, and the next one is asked for.
func (s *signer) half() time.Time {
	begin := s.cert.NotBefore.Add(backdate)
	return begin.Add(s.ends().Sub(begin) / 2)
}

// authorityConfig is what both kinds of authority are opened with; all fields are required but
// trustDomain, step and missing.
type authorityConfig struct {
	dir         string
	trustDomain spiffeid.TrustDomain
	// newTrustDomain is asked when there is neither a state nor a trustDomain.
	newTrustDomain                    func() (spiffeid.TrustDomain, error)
	rootTTL, intermediateTTL, leafTTL time.Duration
	log                               *slog.Logger
	// step is disk.step.
	step func(string) error
	// keys is Config.Keys.
	keys *keyring.Keyring
	// missing is Config.Missing.
	missing error
	// provider signs for a new CA; empty: Builtin.
	provider string
	// now is the clock; nil: time.Now.
	now func() time.Time
}

// renewalRetry is how long the intermediate is left alone after it could not be renewed.
const renewalRetry = time.Minute

// openAuthority reads the state in the directory, or makes a new one if there is none at all.
// Anything between the two is an error.
func openAuthority(cfg authorityConfig) (*authority, error) {
	d, err := openDisk(cfg.dir)
	if err != nil {
		return nil, err
	}
	d.step, d.keys = cfg.step, cfg.keys
	a := &authority{
		disk: d, log: cfg.log, trustDomain: cfg.trustDomain, pairs: map[string]*pair{},
		rootTTL: cfg.rootTTL, leafTTL: cfg.leafTTL, intermediateTTL: cfg.intermediateTTL,
	}
	now := time.Now
	if cfg.now != nil {
		now = cfg.now
	}
	if err := a.load(cfg, now()); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return a, nil
}

// rootRemedy is what to do when the root is lost. It is never replaced silently: every leaf in the
// mesh would become invalid.
func (a *authority) rootRemedy() string {
	return "restore it from a backup, or move " + a.disk.path + " away to begin a new CA, which every proxy has to learn"
}

// due reports whether the intermediate is to be replaced: at half its life, and whenever what it
// signs would be cut short by its own end. Near the root's end a new one would live no longer, so
// there is none.
func (a *authority) due(s *signer, now time.Time) bool {
	if s == nil || valid(s.cert, now) != nil {
		return true
	}
	if !s.cert.NotAfter.Before(s.root.NotAfter) {
		return false
	}
	return !now.Before(s.half()) || s.cert.NotAfter.Sub(now) < a.leafTTL
}

// newIntermediate makes one under a root whose key is here. a.mu is held.
func (a *authority) newIntermediate(root *pair, now time.Time) (*signer, error) {
	own, err := newPair(intermediateProfile(), a.uri(), a.intermediateTTL, now, root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(a.disk.path, intermediateFile), err)
	}
	return &signer{pair: own, root: root.cert}, nil
}

// renew puts a new intermediate with a new key in place of the old one. a.mu is held.
func (a *authority) renew(now time.Time) error {
	root := a.pairs[a.rec.Active]
	if root == nil {
		return a.failedTo(fmt.Errorf("%s: the key of the active root is not there: %s", a.disk.path, a.rootRemedy()), now)
	}
	next, err := a.newIntermediate(root, now)
	if err != nil {
		return a.failedTo(err, now)
	}
	return a.replace(next, now)
}

// replace puts next, which is under the active root, in place of the intermediate, on the disk first. If the disk fails, the old one goes
// on as long as it can sign whole leafs; then the new one is used though only memory knows it, as a leaf brings its chain along. a.mu is
// held.
func (a *authority) replace(next *signer, now time.Time) error {
	content, err := encode(intermediateProfile(), next.pair, next.above)
	if err == nil {
		err = a.disk.write(intermediateFile, content)
	}
	if last := a.intermediate; err == nil || last == nil || valid(last.cert, now) != nil || last.cert.NotAfter.Sub(now) < a.leafTTL {
		a.intermediate = next
	}
	return a.failedTo(err, now)
}

func (a *authority) failedTo(err error, now time.Time) error {
	a.failed = err
	if err != nil {
		a.retry = now.Add(renewalRetry)
	}
	return err
}

// renewIfDue renews the intermediate if it is due, but not within renewalRetry of the last failure.
// A step of the clock does not prolong that. One that a provider signs is not renewed here. It waits for the disk only if there is no other
// that could sign.
func (a *authority) renewIfDue(now time.Time) {
	v := a.shown.Load()
	if v.rec.Provider != Builtin || !a.due(v.intermediate, now) && v.failed == nil {
		return
	}
	if v.intermediate == nil || valid(v.intermediate.cert, now) != nil {
		a.mu.Lock()
	} else if !a.mu.TryLock() {
		return
	}
	defer a.unlock()
	if a.rec.Provider != Builtin || !a.due(a.intermediate, now) && a.failed == nil {
		return
	}
	if wait := a.retry.Sub(now); a.failed != nil && wait > 0 && wait <= renewalRetry {
		return
	}
	if err := a.renew(now); err != nil {
		a.log.Error("intermediate certificate not renewed, trying again", "err", err, "duration", renewalRetry)
		return
	}
	a.log.Info("new intermediate certificate", "audit", "rotation", "file", filepath.Join(a.disk.path, intermediateFile))
}

// issue signs a leaf for id and public and returns it with its chain, without the root.
func (a *authority) issue(p profile, id spiffeid.ID, public crypto.PublicKey, ttl time.Duration, now time.Time) ([]*x509.Certificate, error) {
	a.renewIfDue(now)
	v := a.shown.Load()
	if v.intermediate == nil {
		return nil, fmt.Errorf("%w: %s has not signed an intermediate yet", ErrUnavailable, v.rec.Provider)
	}
	return v.intermediate.issue(p, id, public, ttl, now, v.rec.cross(now, a.leafTTL))
}

// issue signs a leaf that ends with the first of those above it, at the latest.
func (s *signer) issue(p profile, id spiffeid.ID, public crypto.PublicKey, ttl time.Duration, now time.Time, cross *x509.Certificate) ([]*x509.Certificate, error) {
	chain := s.chain()
	if cross != nil {
		chain = append(chain, cross)
	}
	for _, cert := range append([]*x509.Certificate{s.root}, chain...) {
		if err := valid(cert, now); err != nil {
			return nil, fmt.Errorf("%s: %w", cert.Subject.CommonName, err)
		}
		ttl = min(ttl, cert.NotAfter.Sub(now))
	}
	leaf, err := sign(p, id.URL(), public, ttl, now, s.pair)
	if err != nil {
		return nil, err
	}
	return append([]*x509.Certificate{leaf}, chain...), nil
}

// cross is the signature of the new root by the old one that leafs are to bring along; nil: none. One that ends before a leaf has a
// third of its life does more harm than good.
func (r record) cross(now time.Time, leafTTL time.Duration) *x509.Certificate {
	rot := r.Rotation
	if rot == nil || rot.Phase != Activating || rot.Cross == nil || rot.Cross.NotAfter.Sub(now) < leafTTL/3 {
		return nil
	}
	return rot.Cross.Certificate
}

// signer is the intermediate in use; nil: there is none.
func (a *authority) signer() *signer { return a.shown.Load().intermediate }

// record is what the disk says.
func (a *authority) record() record { return a.shown.Load().rec }

// health is the error of the last renewal, nil if there was none.
func (a *authority) health() error { return a.shown.Load().failed }

// trusted are the roots, the active one first.
func (a *authority) trusted() []*x509.Certificate { return a.record().certificates(all) }

func (a *authority) uri() *url.URL { return a.trustDomain.ID().URL() }

// trustDomainOf reads the trust domain out of a root.
func trustDomainOf(cert *x509.Certificate) (spiffeid.TrustDomain, error) {
	if len(cert.URIs) != 1 {
		return spiffeid.TrustDomain{}, fmt.Errorf("its certificate has %d URI SANs, want one, the trust domain", len(cert.URIs))
	}
	id, err := spiffeid.FromURI(cert.URIs[0])
	if err != nil || id.Path() != "" {
		return spiffeid.TrustDomain{}, fmt.Errorf("its certificate is for %q, which is not a trust domain", cert.URIs[0])
	}
	return id.TrustDomain(), nil
}
