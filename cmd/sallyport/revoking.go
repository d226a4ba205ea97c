package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/issuance"
	"github.com/sallyport/sallyport/revocation"
)

// revocations are where what is revoked is written.
type revocations interface {
	// Edit changes what is revoked as decide says, with a token of Consul's or, if it is empty, the control plane's own, and returns when
	// that is in force here. The error may be revocation.ErrReadOnly.
	Edit(ctx context.Context, token string, decide revocation.Decide) error
	// Read reads it now. The error is why what is in force is what was read before.
	Read() error
	// String is what it is called in a sentence.
	String() string
}

// catalogList is the list in a catalog directory.
type catalogList struct{ *revocation.Directory }

func (l catalogList) Edit(_ context.Context, _ string, decide revocation.Decide) error {
	return l.Directory.Edit(decide)
}

func (l catalogList) String() string { return "the catalog directory " + l.Path }

// keyList is the list in a key of Consul's.
type keyList struct{ *revocation.Key }

func (l keyList) Edit(ctx context.Context, token string, decide revocation.Decide) error {
	return l.Key.Edit(ctx, token, decide)
}

// Read does nothing: the key is read whenever it changes.
func (keyList) Read() error { return nil }

func (l keyList) String() string { return "Consul's key " + l.Name }

// listRevoked are the revocations in force.
func (p *controlPlane) listRevoked() admin.Revocations {
	out := admin.Revocations{Where: p.revocations.String(), All: []admin.Revocation{}, Problem: p.revoked.Status().Problem}
	for _, r := range p.revoked.Revoked().All() {
		out.All = append(out.All, described(*r))
	}
	return out
}

func described(r intention.Revocation) admin.Revocation {
	return admin.Revocation{
		ID: r.ID, Serial: colonSerial(r.Serial), SHA256: r.SHA256, Until: r.Until, Reason: r.Reason, By: r.By, At: r.At, Origin: r.Origin,
	}
}

// undescribed is the opposite of described.
func undescribed(r admin.Revocation) intention.Revocation {
	serial, err := files.Serial(r.Serial)
	if err != nil {
		serial = ""
	}
	return intention.Revocation{ID: r.ID, Serial: serial, SHA256: r.SHA256, Until: r.Until, Reason: r.Reason, By: r.By, At: r.At, Origin: r.Origin}
}

// colonSerial is a serial number as other commands print it: "01:02".
func colonSerial(serial string) string {
	if len(serial)%2 == 1 {
		serial = "0" + serial
	}
	b, err := hex.DecodeString(serial)
	if err != nil {
		return serial
	}
	return colonHex(b)
}

// changeRevoked has something be revoked, or no more.
func (p *controlPlane) changeRevoked(ctx context.Context, peer admin.Peer, r admin.RevocationRequest) (out admin.RevocationResponse, err error) {
	if (r.ID == "") == (r.Serial == "" && r.SHA256 == "") {
		return out, errors.New("a SPIFFE ID says which identity is meant, or a serial number or a SHA-256 which certificate: one of the two")
	}
	var what []intention.Revocation
	var decide revocation.Decide
	if r.Undo {
		match, err := p.revokedAs(r)
		if err != nil {
			return out, err
		}
		decide = func(all []intention.Revocation) (edit revocation.Edit, err error) {
			what, edit, err = undo(all, r, match, time.Now())
			return edit, err
		}
	} else {
		one, issued, err := p.toRevoke(r, userName(peer.UID), time.Now())
		if err != nil {
			return out, err
		}
		out.Issued, what = issued, []intention.Revocation{one}
		decide = func(all []intention.Revocation) (revocation.Edit, error) { return revokeOne(all, one, time.Now()) }
	}
	before := p.changeNumber()
	if r.Written {
		if err := p.revocations.Read(); err != nil {
			return out, err
		}
		if r.Undo { // it is not there any more to be looked for
			what = nil
		} else if !slices.ContainsFunc(p.revoked.Revoked().All(), func(o *intention.Revocation) bool { return sameRevoked(*o, what[0]) }) {
			return out, fmt.Errorf("%s is not in the list that was read in %s: is that the directory that you wrote to?", what[0].String(), p.cfg.Catalog)
		}
	} else if err := p.revocations.Edit(ctx, r.Token, decide); errors.Is(err, revocation.ErrReadOnly) && !p.cfg.Consul {
		out.Unwritten, out.Why = p.cfg.Catalog, err.Error()
		for _, w := range what {
			out.What = append(out.What, described(w))
		}
		return out, nil
	} else if err != nil {
		return out, err
	}
	for _, w := range what {
		out.What = append(out.What, described(p.asWritten(w)))
	}
	if now := p.changeNumber(); now != before {
		out.Change = now
	}
	p.tell(&out, what, r.Undo)
	return out, nil
}

// changeNumber is that of the newest change; 0: there is none yet.
func (p *controlPlane) changeNumber() uint64 {
	if v, ok := p.store.Views.Load(); ok {
		return v.Change().Number
	}
	return 0
}

// asWritten is r with where it is written.
func (p *controlPlane) asWritten(r intention.Revocation) intention.Revocation {
	for _, o := range p.revoked.Revoked().All() {
		if sameRevoked(*o, r) {
			return *o
		}
	}
	return r
}

// userName is who a user of this machine is.
func userName(uid int) string {
	number := "uid " + strconv.Itoa(uid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil && u.Username != "" {
		return u.Username + " (" + number + ")"
	}
	return number
}

// minUnissued is how many digits the serial number of a certificate has at least that nobody issued here, where each leaf of the mesh was:
// CAs put 64 random bits into each at least (CA/Browser Forum, 7.1), so fewer are the beginning of one.
const minUnissued = 15

// toRevoke is what a request is to have revoked, and whether it is a certificate that was issued here.
func (p *controlPlane) toRevoke(r admin.RevocationRequest, by string, now time.Time) (out intention.Revocation, issued bool, err error) {
	out = intention.Revocation{Until: r.Until, Reason: r.Reason, By: by, At: now.Truncate(time.Second)}
	if !r.Until.IsZero() && !r.Until.After(now) {
		return out, false, fmt.Errorf("until %s: that is over already", r.Until.Format(time.RFC3339))
	}
	if r.ID != "" {
		out.ID, err = p.toRevokeID(r.ID)
		return out, false, err
	}
	found, err := p.issuedAs(r)
	if err != nil {
		return out, false, err
	}
	ends := r.Ends
	if found != nil {
		out.ID, out.SHA256, ends = found.ID, hex.EncodeToString(found.SHA256[:]), found.Ends
		out.Serial, err = files.Serial(hex.EncodeToString(found.Serial))
	} else {
		err = p.unissued(r, &out)
	}
	switch {
	case err != nil:
		return out, false, err
	case !ends.IsZero() && !ends.After(now):
		return out, false, fmt.Errorf("%s ended at %s: nobody lets it in any more", r.String(), ends.Local().Format(time.DateTime))
	case !ends.IsZero() && (out.Until.IsZero() || out.Until.After(ends)):
		out.Until = ends
	}
	out.Until = out.Until.Truncate(time.Second)
	return out, found != nil, nil
}

// toRevokeID is a SPIFFE ID that can be somebody's whom the mesh lets in.
func (p *controlPlane) toRevokeID(id string) (string, error) {
	id, err := files.SPIFFEID(id)
	if err != nil {
		return "", err
	}
	td, known := p.authority.trustDomain()
	if !known {
		return "", fmt.Errorf("%w: the mesh's trust domain is not known", admin.ErrNotYet)
	}
	if identity.ID(id).TrustDomain() == td {
		if _, err := identity.ParseURI(id); err != nil {
			return "", fmt.Errorf("%s is no service's of the mesh: %w", id, err)
		}
		return id, nil
	}
	others, _ := p.otherTrustDomains()
	var names []string
	for _, d := range others {
		if d.Name == identity.ID(id).TrustDomain().Name() {
			return id, nil
		}
		names = append(names, d.Name)
	}
	text := "none other is known (--trust-domains)"
	if len(names) > 0 {
		text = "the others that are known are " + strings.Join(names, ", ")
	}
	return "", fmt.Errorf("%s is of the trust domain %s, of which nobody is let in: the mesh's is %s, and %s", id, identity.ID(id).TrustDomain().Name(), td.Name(), text)
}

// issuedAs is the certificate that was issued here which a request means; nil: there is none. The error is also that there are several.
func (p *controlPlane) issuedAs(r admin.RevocationRequest) (*issuance.Leaf, error) {
	serial, err := hexQuery("serial number", r.Serial)
	if err != nil {
		return nil, err
	}
	digest, err := hexQuery("SHA-256", r.SHA256)
	if err != nil {
		return nil, err
	}
	trimmed := strings.TrimLeft(serial, "0")
	exactly := func(l issuance.Leaf) bool {
		return serial != "" && strings.TrimLeft(hex.EncodeToString(l.Serial), "0") == trimmed || digest != "" && hex.EncodeToString(l.SHA256[:]) == digest
	}
	found := p.issued.Leafs(func(l issuance.Leaf) bool {
		if serial != "" && digest != "" { // both say which one it is, or it is none
			return exactly(l)
		}
		return exactly(l) || serial != "" && begins(hex.EncodeToString(l.Serial), serial) || digest != "" && begins(hex.EncodeToString(l.SHA256[:]), digest)
	})
	slices.SortStableFunc(found, func(a, b issuance.Leaf) int { return strings.Compare(string(a.SHA256[:]), string(b.SHA256[:])) })
	found = slices.CompactFunc(found, func(a, b issuance.Leaf) bool { return a.SHA256 == b.SHA256 })
	if i := slices.IndexFunc(found, exactly); i >= 0 && len(found) > 1 && digest == "" {
		found = found[i : i+1]
	}
	switch {
	case len(found) == 0:
		return nil, nil //nolint:nilnil // none is an answer
	case len(found) > 1:
		var all []string
		for _, l := range found[:min(len(found), 10)] {
			all = append(all, fmt.Sprintf("%s (%s, SHA-256 %s…)", colonHex(l.Serial), l.Caller, hex.EncodeToString(l.SHA256[:4])))
		}
		return nil, fmt.Errorf("%s: %d certificates begin so: give more digits: %s", r.String(), len(found), strings.Join(all, ", "))
	}
	l := found[0]
	if serial != "" && digest != "" && (strings.TrimLeft(hex.EncodeToString(l.Serial), "0") != trimmed || hex.EncodeToString(l.SHA256[:]) != digest) {
		return nil, fmt.Errorf("the certificate with the serial number %s that was issued here has the SHA-256 %s: one of the two that you gave is another's", colonHex(l.Serial), hex.EncodeToString(l.SHA256[:]))
	}
	return &l, nil
}

// unissued has out be the certificate of a request that was not issued here.
func (p *controlPlane) unissued(r admin.RevocationRequest, out *intention.Revocation) (err error) {
	if r.Serial != "" {
		if strings.Contains(r.Serial, "…") {
			return fmt.Errorf("serial number %s: %w", r.Serial, errNoIssued)
		}
		if out.Serial, err = files.Serial(r.Serial); err != nil {
			return err
		}
		if len(out.Serial) < minUnissued && !p.cfg.Consul && r.SHA256 == "" {
			return fmt.Errorf("serial number %s: %w: of one that was issued elsewhere give the whole number", r.Serial, errNoIssued)
		}
	}
	if r.SHA256 != "" {
		if out.SHA256, err = files.SHA256(r.SHA256); err != nil {
			return fmt.Errorf("%w; and no certificate that was issued here begins so", err)
		}
	}
	if r.Holder == "" {
		return nil
	}
	// Whom nobody lets in it need not name.
	out.ID, err = p.toRevokeID(r.Holder)
	return err
}

var errNoIssued = fmt.Errorf("%w: `sallyport leaf list` has those that were issued here and have not ended", admin.ErrUnknown)

// revokeOne has one be revoked.
func revokeOne(all []intention.Revocation, one intention.Revocation, now time.Time) (revocation.Edit, error) {
	for _, r := range all {
		if sameRevoked(r, one) && !over(r, now) {
			text := r.String() + " is revoked already, at " + r.Origin
			if !r.At.IsZero() {
				text += ", since " + at(r.At)
			}
			return revocation.Edit{}, fmt.Errorf("%s: unrevoke it first to change its reason or its end", text)
		}
	}
	return revocation.Edit{Drop: ended(now), Add: []intention.Revocation{one}}, nil
}

// undo has what matches be revoked no more; r says what it was called.
func undo(all []intention.Revocation, r admin.RevocationRequest, match func(intention.Revocation) bool, now time.Time) (what []intention.Revocation, edit revocation.Edit, err error) {
	for _, o := range all {
		if match(o) && !over(o, now) {
			what = append(what, o)
		}
	}
	switch {
	case len(what) == 0 && r.ID != "":
		return nil, edit, fmt.Errorf("the identity %s is not revoked: `sallyport revoked` lists what is", r.ID)
	case len(what) == 0:
		return nil, edit, fmt.Errorf("the %s is not revoked: `sallyport revoked` lists what is", r.String())
	case slices.ContainsFunc(what, func(o intention.Revocation) bool { return !sameRevoked(o, what[0]) }): // the same in two files is one
		var names []string
		for _, o := range what {
			names = append(names, o.String()+" at "+o.Origin)
		}
		return nil, edit, fmt.Errorf("%s: %d are revoked that begin so: give more digits: %s", r.String(), len(what), strings.Join(names, ", "))
	}
	return what, revocation.Edit{Drop: dropping(what, now)}, nil
}

// dropping are those that are what is listed, or have ended.
func dropping(what []intention.Revocation, now time.Time) func(intention.Revocation) bool {
	return func(o intention.Revocation) bool {
		return ended(now)(o) || slices.ContainsFunc(what, func(w intention.Revocation) bool { return w.ID == o.ID && w.Serial == o.Serial && w.SHA256 == o.SHA256 })
	}
}

func over(r intention.Revocation, now time.Time) bool {
	return !r.Until.IsZero() && !now.Before(r.Until)
}

// keptEnded is for how long a revocation that is over stays in the list: the clock may be wrong.
const keptEnded = 24 * time.Hour

// ended are the revocations that have been over for a while. Those of files that nobody but people writes stay there.
func ended(now time.Time) func(intention.Revocation) bool {
	return func(r intention.Revocation) bool {
		return over(r, now.Add(-keptEnded)) && !strings.HasPrefix(r.Origin, "revoked.hcl:") && !strings.HasPrefix(r.Origin, "revoked.json:")
	}
}

// sameRevoked reports whether two revocations are about the same.
func sameRevoked(a, b intention.Revocation) bool {
	switch {
	case a.OfCertificate() != b.OfCertificate():
		return false
	case !a.OfCertificate():
		return a.ID == b.ID
	case a.SHA256 != "" && b.SHA256 != "":
		return a.SHA256 == b.SHA256
	}
	return a.Serial != "" && a.Serial == b.Serial && a.SHA256 == b.SHA256
}

// sameNumber reports whether a serial number, without leading zeros, is the one that was asked for, or begins so as it is printed or as
// it is written in a list.
func sameNumber(serial, asked string) bool {
	printed := strings.ReplaceAll(colonSerial(serial), ":", "")
	return serial == strings.TrimLeft(asked, "0") || begins(printed, asked) || begins(serial, asked)
}

// revokedAs is what a request to undo means.
func (p *controlPlane) revokedAs(r admin.RevocationRequest) (func(intention.Revocation) bool, error) {
	if r.ID != "" {
		return func(o intention.Revocation) bool { return !o.OfCertificate() && o.ID == r.ID }, nil
	}
	serial, err := hexQuery("serial number", r.Serial)
	if err != nil {
		return nil, err
	}
	digest, err := hexQuery("SHA-256", r.SHA256)
	if err != nil {
		return nil, err
	}
	issued := ""
	if found, err := p.issuedAs(r); err == nil && found != nil {
		issued = hex.EncodeToString(found.SHA256[:])
	}
	return func(o intention.Revocation) bool {
		if !o.OfCertificate() {
			return false
		}
		return issued != "" && o.SHA256 == issued || serial != "" && o.Serial != "" && sameNumber(o.Serial, serial) || digest != "" && o.SHA256 != "" && begins(o.SHA256, digest)
	}, nil
}
