package ca

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"
)

// commit makes next the record: what it needs is on the disk first, then the record itself, and only then it is acted on. After an error
// nothing has changed but files that nobody needs, which settle removes. a.mu is held, or nobody else has a.
func (a *authority) commit(next record, needs map[string][]byte) error {
	a.unsettled = true
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		if err := a.disk.write(name, needs[name]); err != nil {
			return err
		}
	}
	content, err := next.encode()
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(a.disk.path, recordFile), err)
	}
	if err := a.disk.write(recordFile, content); err != nil {
		return err
	}
	a.rec = next
	a.version++
	return nil
}

// prepare is r with roots of the provider to beside those that it has, and a rotation that begins.
func (r record) prepare(roots []*x509.Certificate, rot rotation) record {
	next := r.clone()
	for _, c := range roots {
		sha := fingerprint(c)
		rot.Next = append(rot.Next, sha)
		if r.root(sha) == nil {
			next.Roots = append(next.Roots, anchor{Provider: rot.To, Certificate: certificate{c}, State: prepared})
		}
	}
	rot.Phase = Preparing
	next.Rotation = &rot
	return next
}

// activate is r with root as the one under which is signed.
func (r record) activate(root *x509.Certificate, cross *x509.Certificate, crossSigned bool, now time.Time) record {
	next := r.clone()
	next.Active, next.Provider = fingerprint(root), r.Rotation.To
	for i, a := range next.Roots {
		switch {
		case fingerprint(a.Certificate.Certificate) == next.Active:
			next.Roots[i].State, next.Roots[i].Provider = active, r.Rotation.To
		case a.State == active:
			next.Roots[i].State = old
		}
	}
	rot := next.Rotation
	rot.Phase, rot.Since, rot.CrossSigned, rot.Cross = Activating, now, crossSigned, nil
	if cross != nil {
		rot.Cross = &certificate{cross}
	}
	return next
}

// retire is r without the roots for which leave returns true, the keys of which are kept for a day, and without the cross-signature. All
// know the active root.
func (r record) retire(leave func(anchor) bool, now time.Time) record {
	next := r.told(func(a anchor) bool { return a.State == active })
	next.Roots = slices.DeleteFunc(next.Roots, func(a anchor) bool {
		if a.State == active || !leave(a) {
			return false
		}
		if next.Rotation.Distrust && a.State == old && a.Provider != Builtin {
			next.Distrusted = append(next.Distrusted, keyPrint(a.Certificate.Certificate))
		}
		if a.Provider == Builtin {
			next.Dropped = append(next.Dropped, dropped{SHA256: fingerprint(a.Certificate.Certificate), At: now.Add(keepKeys)})
		}
		return true
	})
	next.Rotation.Phase, next.Rotation.Since, next.Rotation.Cross = Retiring, now, nil
	return next
}

// keepRoots is how long a root that has ended stays in the record: a clock that is ahead for a while loses none.
const keepRoots = 24 * time.Hour

// keepKeys is how long the key of a root that left is kept: for the one who finds that it was too early.
const keepKeys = 24 * time.Hour

// drop is r without the keys that were kept long enough. Those that left while the clock was ahead are kept for a day from now.
func (r record) drop(now time.Time) (next record, changed bool) {
	next = r.clone()
	next.Dropped = slices.DeleteFunc(next.Dropped, func(d dropped) bool { return !now.Before(d.At) })
	for i, d := range next.Dropped {
		if d.At.Sub(now) > keepKeys {
			next.Dropped[i].At, changed = now.Add(keepKeys), true
		}
	}
	return next, changed || len(next.Dropped) < len(r.Dropped)
}

// crossSign is the key of root signed by another root: with root's subject, key and key ID, so that what root signed is followed to by.
func crossSign(root *x509.Certificate, by *pair, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, RawSubject: root.RawSubject, SubjectKeyId: root.SubjectKeyId, URIs: root.URIs,
		NotBefore: now.Add(-rootProfile().backdated(root.NotAfter.Sub(now))), NotAfter: root.NotAfter,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLen: root.MaxPathLen, MaxPathLenZero: root.MaxPathLenZero,
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	for _, e := range root.Extensions {
		if e.Id.Equal(nameConstraints) {
			template.ExtraExtensions = append(template.ExtraExtensions, e)
		}
	}
	if template.NotAfter.After(by.cert.NotAfter) {
		template.NotAfter = by.cert.NotAfter
	}
	if template.NotBefore.Before(by.cert.NotBefore) {
		template.NotBefore = by.cert.NotBefore
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, root.PublicKey, by.key)
	if err != nil {
		return nil, fmt.Errorf("the root of another CA, signed by ours: %w", err)
	}
	return x509.ParseCertificate(der)
}
