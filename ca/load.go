package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func (a *authority) load(cfg authorityConfig, now time.Time) error {
	names, err := a.disk.names()
	if err != nil {
		return err
	}
	ours := func(name string) bool {
		return name == recordFile || name == requestFile || isPairFile(name, rootFile) || isPairFile(name, intermediateFile)
	}
	for _, name := range names {
		whole, tmp := strings.CutSuffix(name, tmpSuffix)
		if !tmp || !ours(whole) {
			continue
		}
		if err := a.disk.removeTmp(whole); err != nil {
			// On a file system that became read-only this fails, and nothing depends on it.
			a.log.Warn("temporary file of an unfinished write cannot be removed", "err", err)
		}
	}
	for _, name := range names {
		if ours(name) {
			a.disk.encrypt(name)
		}
	}
	if err := a.loadRoots(cfg, names, now); err != nil {
		return err
	}
	if err := a.loadIntermediate(names, now); err != nil {
		return err
	}
	a.unsettled = !a.rec.plain() || slices.ContainsFunc(names, func(name string) bool { return name == recordFile || a.isBeside(name) })
	return nil
}

// isBeside reports whether name is that of a file which is only there during a rotation.
func (a *authority) isBeside(name string) bool {
	return name != rootFile && isPairFile(name, rootFile) || name != intermediateFile && isPairFile(name, intermediateFile)
}

// loadRoots reads the record and the roots, or makes a new CA if there is nothing of one.
func (a *authority) loadRoots(cfg authorityConfig, names []string, now time.Time) error {
	data, err := a.disk.read(recordFile)
	hasRecord := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if hasRecord {
		path := filepath.Join(a.disk.path, recordFile)
		if a.rec, err = decodeRecord(data); err != nil {
			return fmt.Errorf("%s: %w: %s", path, err, a.rootRemedy())
		}
		if td := a.rec.TrustDomain; !a.trustDomain.IsZero() && a.trustDomain != td {
			return a.otherTrustDomain(path, td.Name())
		}
		a.trustDomain = a.rec.TrustDomain
		if err := a.loadPairs(names); err != nil {
			return err
		}
		return a.checkActive(path, now)
	}
	data, err = a.disk.read(rootFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return a.create(cfg, names, now)
	case err != nil:
		return err
	}
	return a.loadRoot(data, now)
}

// loadPairs reads the keys of the roots that the record names. What else is there is none of its business.
func (a *authority) loadPairs(names []string) error {
	for _, name := range names {
		if !isPairFile(name, rootFile) {
			continue
		}
		path := filepath.Join(a.disk.path, name)
		data, err := a.disk.read(name)
		if err != nil {
			return err
		}
		own, _, err := decode(rootProfile(), data)
		if err == nil {
			err = check(rootProfile(), own.cert, a.uri().String(), own.key.Public(), own.cert)
		}
		if err != nil && name != rootFile && !slices.ContainsFunc(a.rec.Roots, func(r anchor) bool { return name == pairFile(rootFile, fingerprint(r.Certificate.Certificate)) }) {
			a.log.Warn("a file that is no root of the CA is ignored", "file", path, "err", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %s", path, err, a.rootRemedy())
		}
		a.pairs[fingerprint(own.cert)] = own
	}
	return nil
}

// checkActive returns an error if the built-in root is to sign and cannot.
func (a *authority) checkActive(path string, now time.Time) error {
	if a.rec.Provider != Builtin {
		return nil
	}
	own := a.pairs[a.rec.Active]
	if own == nil {
		return fmt.Errorf("%s: the root %.8s signs, and no root*.pem has its key: %s", path, a.rec.Active, a.rootRemedy())
	}
	return a.rootValid(path, own.cert, now)
}

func (a *authority) rootValid(path string, root *x509.Certificate, now time.Time) error {
	if err := valid(root, now); err != nil {
		return fmt.Errorf("%s: root certificate: %w: if the clock is right, move %s away to begin a new CA, which every proxy has to learn", path, err, a.disk.path)
	}
	return nil
}

func (a *authority) otherTrustDomain(path, td string) error {
	return fmt.Errorf("%s: this CA is of the trust domain %s, configured is %s: configure that of the CA, or choose an empty directory for a new CA", path, td, a.trustDomain)
}

// create makes the root. The file system says that there is none: the CA is new, unless something
// else of it is left.
func (a *authority) create(cfg authorityConfig, names []string, now time.Time) error {
	path := filepath.Join(a.disk.path, rootFile)
	if i := slices.IndexFunc(names, func(name string) bool { return isPairFile(name, rootFile) || isPairFile(name, intermediateFile) }); i >= 0 {
		return fmt.Errorf("%s: is missing, but %s is there, so there was a CA: %s", path, names[i], a.rootRemedy())
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
	if cfg.provider != "" && cfg.provider != Builtin {
		if err := a.commit(record{TrustDomain: a.trustDomain, Provider: cfg.provider, Roots: []anchor{}}, nil); err != nil {
			return err
		}
		a.log.Info("new CA", "audit", "rotation", "file", filepath.Join(a.disk.path, recordFile), "provider", cfg.provider)
		return nil
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
	a.plainRecord(root, nil)
	a.log.Info("new CA", "audit", "rotation", "file", path)
	return nil
}

// plainRecord is the record of a directory that has none.
func (a *authority) plainRecord(root *pair, others []*x509.Certificate) {
	sha := fingerprint(root.cert)
	a.pairs[sha] = root
	a.rec = record{TrustDomain: a.trustDomain, Provider: Builtin, Active: sha, Roots: []anchor{{Provider: Builtin, Certificate: certificate{root.cert}, State: active, Told: true}}}
	for _, cert := range others {
		a.rec.Roots = append(a.rec.Roots, anchor{Provider: Builtin, Certificate: certificate{cert}, State: old, Told: true})
	}
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
		return a.otherTrustDomain(path, td.Name())
	}
	a.trustDomain = td
	if err := check(rootProfile(), root.cert, a.uri().String(), root.key.Public(), root.cert); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, a.rootRemedy())
	}
	if err := a.rootValid(path, root.cert, now); err != nil {
		return err
	}
	var usable []*x509.Certificate
	for i, cert := range others {
		if err := check(rootProfile(), cert, a.uri().String(), nil, cert); err != nil {
			return fmt.Errorf("%s: the other root number %d: %w: %s", path, i+1, err, a.rootRemedy())
		}
		if err := valid(cert, now); err != nil {
			a.log.Warn("inactive root ignored", "file", path, "err", err)
			continue
		}
		usable = append(usable, cert)
	}
	a.plainRecord(root, usable)
	return nil
}

// loadIntermediate reads the intermediates and takes the newest one under the active root.
func (a *authority) loadIntermediate(names []string, now time.Time) error {
	for _, name := range names {
		if !isPairFile(name, intermediateFile) {
			continue
		}
		remedy := "restore it from a backup or remove it; the root signs a new one at the next start"
		if a.rec.Provider != Builtin {
			remedy = "restore it from a backup or remove it; " + a.rec.Provider + " is asked for a new one at the next start"
		}
		data, err := a.disk.read(name)
		if err != nil {
			return err
		}
		s, err := a.decodeSigner(data)
		if err != nil && name != intermediateFile {
			a.log.Warn("a file that is no intermediate of the CA is ignored", "file", filepath.Join(a.disk.path, name), "err", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %s", filepath.Join(a.disk.path, name), err, remedy)
		}
		if s != nil && (a.intermediate == nil || s.cert.NotBefore.After(a.intermediate.cert.NotBefore)) {
			a.intermediate = s
		}
	}
	a.mu.Lock()
	defer a.unlock()
	if a.rec.Provider == Builtin && a.due(a.intermediate, now) {
		if err := a.renew(now); err != nil && (a.intermediate == nil || valid(a.intermediate.cert, now) != nil) {
			return err
		}
	}
	return nil
}

// decodeSigner reads an intermediate. Nil: it is under another root than the active one, from before or after a step of a rotation.
func (a *authority) decodeSigner(data []byte) (*signer, error) {
	own, above, err := decode(intermediateProfile(), data)
	if err != nil {
		return nil, err
	}
	chain := append([]*x509.Certificate{own.cert}, above...)
	root := anchorOf(chain, a.rec.certificates(all))
	switch {
	case a.rec.Provider != Builtin && root == nil:
		return nil, errors.New("it ends at none of the roots")
	case root != nil && fingerprint(root) != a.rec.Active:
		return nil, nil //nolint:nilnil // as said
	case a.rec.Provider == Builtin && len(above) > 0:
		return nil, errors.New("holds more than one certificate")
	case a.rec.Provider == Builtin:
		root = a.rec.root(a.rec.Active)
		if err := check(intermediateProfile(), own.cert, a.uri().String(), own.key.Public(), root); err != nil {
			return nil, err
		}
	case !own.key.PublicKey.Equal(own.cert.PublicKey):
		return nil, errors.New("the private key belongs to another certificate")
	}
	return &signer{pair: own, above: above, root: root}, nil
}

// anchorOf is the root at which a chain ends; nil: it is none of roots.
func anchorOf(chain, roots []*x509.Certificate) *x509.Certificate {
	for _, c := range chain {
		for _, root := range roots {
			if string(root.RawSubject) == string(c.RawIssuer) && c.CheckSignatureFrom(root) == nil {
				return root
			}
		}
	}
	return nil
}
