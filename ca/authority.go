package ca

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// authority signs certificates: a root and an intermediate under it, kept in a directory. Both CA
// and Endpoint are one.
type authority struct {
	disk            *disk
	log             *slog.Logger
	trustDomain     spiffeid.TrustDomain
	leafTTL         time.Duration
	intermediateTTL time.Duration
	root            *pair
	// roots are all that are trusted, root first.
	roots []*x509.Certificate

	mu           sync.Mutex
	intermediate *pair
	// failed is why the last renewal of the intermediate failed, and retry when the next may be
	// tried; failed is nil if it did not.
	failed error
	retry  time.Time
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
	// missing is Config.Missing.
	missing error
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
	d.step = cfg.step
	a := &authority{
		disk: d, log: cfg.log, trustDomain: cfg.trustDomain,
		leafTTL: cfg.leafTTL, intermediateTTL: cfg.intermediateTTL,
	}
	if err := a.load(cfg, time.Now()); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return a, nil
}

func (a *authority) load(cfg authorityConfig, now time.Time) error {
	for _, name := range []string{rootFile, intermediateFile} {
		if err := a.disk.removeTmp(name); err != nil {
			// On a file system that became read-only this fails, and nothing depends on it.
			a.log.Warn("temporary file of an unfinished write cannot be removed", "err", err)
		}
	}
	data, err := a.disk.read(rootFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = a.create(cfg, now)
	case err == nil:
		err = a.loadRoot(data, now)
	}
	if err != nil {
		return err
	}
	return a.loadIntermediate(now)
}

// create makes the root. The file system says that there is none: the CA is new, unless something
// else of it is left.
func (a *authority) create(cfg authorityConfig, now time.Time) error {
	path := filepath.Join(a.disk.path, rootFile)
	if _, err := a.disk.root.Lstat(intermediateFile); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: is missing, but %s is there, so there was a CA: %s", path, intermediateFile, a.rootRemedy())
	}
	if cfg.missing != nil {
		return fmt.Errorf("%s: is missing: %w", path, cfg.missing)
	}
	if a.trustDomain.IsZero() {
		td, err := cfg.newTrustDomain()
		if err != nil {
			return err
		}
		a.trustDomain = td
	}
	root, err := newPair(rootProfile(), a.uri(), cfg.rootTTL, now, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	content, err := encode(rootProfile(), root, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := a.disk.write(rootFile, content); err != nil {
		return err
	}
	a.root, a.roots = root, []*x509.Certificate{root.cert}
	a.log.Info("new CA", "audit", "rotation", "file", path)
	return nil
}

func (a *authority) loadRoot(data []byte, now time.Time) error {
	path := filepath.Join(a.disk.path, rootFile)
	root, others, err := decode(rootProfile(), data)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, a.rootRemedy())
	}
	td, err := trustDomainOf(root.cert)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, a.rootRemedy())
	}
	if !a.trustDomain.IsZero() && a.trustDomain != td {
		return fmt.Errorf("%s: this CA is of the trust domain %s, configured is %s: configure that of the CA, or choose an empty directory for a new CA", path, td, a.trustDomain)
	}
	a.trustDomain = td
	if err := check(rootProfile(), root.cert, a.uri().String(), root.key.Public(), root.cert); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, a.rootRemedy())
	}
	if err := valid(root.cert, now); err != nil {
		return fmt.Errorf("%s: root certificate: %w: if the clock is right, move %s away to begin a new CA, which every proxy has to learn", path, err, a.disk.path)
	}
	a.root, a.roots = root, []*x509.Certificate{root.cert}
	for i, cert := range others {
		if err := check(rootProfile(), cert, a.uri().String(), nil, cert); err != nil {
			return fmt.Errorf("%s: the other root number %d: %w: %s", path, i+1, err, a.rootRemedy())
		}
		if err := valid(cert, now); err != nil {
			a.log.Warn("inactive root ignored", "file", path, "err", err)
			continue
		}
		a.roots = append(a.roots, cert)
	}
	return nil
}

// rootRemedy is what to do when the root is lost. It is never replaced silently: every leaf in the
// mesh would become invalid.
func (a *authority) rootRemedy() string {
	return "restore it from a backup, or move " + a.disk.path + " away to begin a new CA, which every proxy has to learn"
}

func (a *authority) loadIntermediate(now time.Time) error {
	path := filepath.Join(a.disk.path, intermediateFile)
	const remedy = "restore it from a backup or remove it; the root signs a new one at the next start"
	data, err := a.disk.read(intermediateFile)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the CA is new, or somebody followed the remedy
	case err != nil:
		return err
	default:
		own, others, err := decode(intermediateProfile(), data)
		if err == nil && len(others) > 0 {
			err = errors.New("holds more than one certificate")
		}
		if err == nil {
			err = check(intermediateProfile(), own.cert, a.uri().String(), own.key.Public(), a.root.cert)
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %s", path, err, remedy)
		}
		a.intermediate = own
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.intermediate == nil || a.due(now) {
		if err := a.renew(now); err != nil && (a.intermediate == nil || valid(a.intermediate.cert, now) != nil) {
			return err
		}
	}
	return nil
}

// due reports whether the intermediate is to be replaced: at half its life, and whenever what it
// signs would be cut short by its own end. Near the root's end a new one would live no longer, so
// there is none. a.mu is held.
func (a *authority) due(now time.Time) bool {
	cert := a.intermediate.cert
	if valid(cert, now) != nil {
		return true
	}
	if !cert.NotAfter.Before(a.root.cert.NotAfter) {
		return false
	}
	return !now.Before(halfLife(cert)) || cert.NotAfter.Sub(now) < a.leafTTL
}

func halfLife(cert *x509.Certificate) time.Time {
	begin := cert.NotBefore.Add(backdate)
	return begin.Add(cert.NotAfter.Sub(begin) / 2)
}

// renew puts a new intermediate with a new key in place of the old one, on the disk first. If the
// disk fails, the old one goes on as long as it can sign whole leafs; then the new one is used
// though only memory knows it, as a leaf brings its chain along. a.mu is held.
func (a *authority) renew(now time.Time) error {
	next, err := newPair(intermediateProfile(), a.uri(), a.intermediateTTL, now, a.root)
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Join(a.disk.path, intermediateFile), err)
	} else {
		var content []byte
		if content, err = encode(intermediateProfile(), next, nil); err == nil {
			err = a.disk.write(intermediateFile, content)
		}
		if err == nil || a.intermediate == nil || valid(a.intermediate.cert, now) != nil || a.intermediate.cert.NotAfter.Sub(now) < a.leafTTL {
			a.intermediate = next
		}
	}
	a.failed = err
	if err != nil {
		a.retry = now.Add(renewalRetry)
	}
	return err
}

// renewIfDue renews the intermediate if it is due, but not within renewalRetry of the last failure.
// A step of the clock does not prolong that.
func (a *authority) renewIfDue(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.due(now) && a.failed == nil {
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
	signer := a.signer()
	for _, cert := range [...]*x509.Certificate{a.root.cert, signer.cert} {
		if err := valid(cert, now); err != nil {
			return nil, fmt.Errorf("%s: %w", cert.Subject.CommonName, err)
		}
	}
	leaf, err := sign(p, id.URL(), public, ttl, now, signer)
	if err != nil {
		return nil, err
	}
	return []*x509.Certificate{leaf, signer.cert}, nil
}

// signer is the intermediate in use.
func (a *authority) signer() *pair {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.intermediate
}

// health is the error of the last renewal, nil if there was none.
func (a *authority) health() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

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
