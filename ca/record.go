package ca

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// recordFile says which roots there are and how far a rotation has come. While the built-in root signs, and no other was there for a
// day, there is none: the root's file says all.
const recordFile = "state.json"

// record is what outlives a restart beside keys. It is replaced as a whole, which is how a rotation goes on by a step: what a step needs
// is on the disk before, and what it makes needless leaves after. A record is immutable.
type record struct {
	TrustDomain spiffeid.TrustDomain `json:"trust_domain"`
	// Provider signs now.
	Provider string `json:"provider"`
	// Active is the SHA-256 of the root under which it does; empty: the provider has not told yet.
	Active string `json:"active,omitempty"`
	// Roots are all that are trusted.
	Roots    []anchor  `json:"roots"`
	Rotation *rotation `json:"rotation,omitempty"`
	// Dropped are roots that are trusted no more and whose keys are kept until At.
	Dropped []dropped `json:"dropped,omitempty"`
	// Distrusted are the SHA-256 of the public keys of providers' roots that others have the private keys of: whoever names such a root
	// again, it is not taken.
	Distrusted []string `json:"distrusted,omitempty"`
}

// The states of a root, as RootStatus has them.
const (
	prepared = "prepared"
	active   = "active"
	old      = "old"
)

// anchor is a root.
type anchor struct {
	Provider    string      `json:"provider"`
	Certificate certificate `json:"certificate"`
	State       string      `json:"state"`
	// Told is that nobody is left who may not trust it.
	Told bool `json:"told,omitempty"`
}

// rotation is how far a rotation has come.
type rotation struct {
	Phase Phase  `json:"phase"`
	From  string `json:"from"`
	To    string `json:"to"`
	// Next are the SHA-256 of the roots that come.
	Next []string `json:"next"`
	// Cross is the new root's key signed by the old root, while Activating; nil: it is not.
	Cross *certificate `json:"cross,omitempty"`
	// CrossSigned is that those who trust the old root alone accept what is signed under the new one: by Cross, or by what the provider
	// sends along.
	CrossSigned bool      `json:"cross_signed,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Started     time.Time `json:"started"`
	Since       time.Time `json:"since"`
	Overridden  []string  `json:"overridden,omitempty"`
	Dangerous   bool      `json:"dangerous,omitempty"`
	Distrust    bool      `json:"distrust,omitempty"`
}

// follows reports whether r is to another root of the provider that signs already, as it has one.
func (r *rotation) follows() bool { return r.From == r.To && r.To != Builtin }

type dropped struct {
	SHA256 string    `json:"sha256"`
	At     time.Time `json:"at"`
}

// certificate is one in PEM in a record.
type certificate struct{ *x509.Certificate }

func (c certificate) MarshalText() ([]byte, error) {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw}), nil
}

func (c *certificate) UnmarshalText(text []byte) error {
	certs, err := ParseCertificates(string(text))
	if err != nil || len(certs) != 1 {
		return errors.New("a certificate of it cannot be read")
	}
	c.Certificate = certs[0]
	return nil
}

// fingerprint is the SHA-256 of a certificate in hexadecimal.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// keyPrint is the SHA-256 of a certificate's public key in hexadecimal.
func keyPrint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// distrusts reports whether others have the private key of a root.
func (r record) distrusts(root *x509.Certificate) bool {
	return slices.Contains(r.Distrusted, keyPrint(root))
}

// root is the one of a fingerprint; nil: there is none.
func (r record) root(sha string) *x509.Certificate {
	for _, a := range r.Roots {
		if fingerprint(a.Certificate.Certificate) == sha {
			return a.Certificate.Certificate
		}
	}
	return nil
}

// certificates are the roots for which keep returns true, the active one first.
func (r record) certificates(keep func(anchor) bool) []*x509.Certificate {
	var first, rest []*x509.Certificate
	for _, a := range r.Roots {
		switch {
		case !keep(a):
		case a.State == active:
			first = append(first, a.Certificate.Certificate)
		default:
			rest = append(rest, a.Certificate.Certificate)
		}
	}
	return append(first, rest...)
}

func all(anchor) bool { return true }

// next reports whether a is one of the roots that come.
func (r record) next(a anchor) bool {
	return r.Rotation != nil && slices.Contains(r.Rotation.Next, fingerprint(a.Certificate.Certificate))
}

// clone is r with its own slices and rotation, to be changed and committed.
func (r record) clone() record {
	r.Roots, r.Dropped, r.Distrusted = slices.Clone(r.Roots), slices.Clone(r.Dropped), slices.Clone(r.Distrusted)
	if r.Rotation != nil {
		next := *r.Rotation
		next.Next, next.Overridden = slices.Clone(next.Next), slices.Clone(next.Overridden)
		r.Rotation = &next
	}
	return r
}

// plain reports whether the root's file says all that r does.
func (r record) plain() bool {
	return r.Provider == Builtin && r.Rotation == nil && len(r.Dropped) == 0 && len(r.Distrusted) == 0 && !slices.ContainsFunc(r.Roots, func(a anchor) bool { return a.Provider != Builtin })
}

func (r record) encode() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	return slices.Concat(fmt.Appendf(nil, "%sstate%s%d\n", headWords, formatWords, format), text, []byte("\n"+tail)), nil
}

// decodeRecord is the reverse of encode. As with the other files it accepts nothing else.
func decodeRecord(data []byte) (r record, err error) {
	if len(data) == 0 {
		return r, errors.New("is empty")
	}
	if err := checkHead(profile{name: "state"}, data); err != nil {
		return r, err
	}
	if !bytes.HasSuffix(data, []byte("\n"+tail)) {
		return r, errors.New("is cut off")
	}
	_, text, _ := bytes.Cut(bytes.TrimSuffix(data, []byte("\n"+tail)), []byte("\n"))
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("cannot be read: %w", err)
	}
	if err := r.check(); err != nil {
		return r, err
	}
	again, err := r.encode()
	if err != nil || !bytes.Equal(again, data) {
		return r, errors.New("is not as sallyport wrote it")
	}
	return r, nil
}

// check returns an error unless the parts of r fit together.
func (r record) check() error {
	uri := r.TrustDomain.ID().URL().String()
	actives := 0
	for i, a := range r.Roots {
		c := a.Certificate.Certificate
		switch {
		case c == nil:
			return fmt.Errorf("its root number %d has no certificate", i+1)
		case a.State == active && fingerprint(c) == r.Active:
			actives++
		case a.State != prepared && a.State != old:
			return fmt.Errorf("its root number %d is %q, want one active, the others prepared or old", i+1, a.State)
		}
		if a.Provider == Builtin {
			if err := check(rootProfile(), c, uri, nil, c); err != nil {
				return fmt.Errorf("its root number %d: %w", i+1, err)
			}
		}
	}
	switch rot := r.Rotation; {
	case r.TrustDomain.IsZero() || r.Provider == "":
		return errors.New("it names no trust domain, or no provider")
	case r.Active != "" && actives != 1, r.Active == "" && (actives > 0 || r.Provider == Builtin):
		return errors.New("the root that is active is not among its roots")
	case rot == nil:
	case rot.Phase != Preparing && rot.Phase != Activating && rot.Phase != Retiring:
		return fmt.Errorf("its rotation is in the phase %q, which is none", rot.Phase)
	case len(rot.Next) == 0 || slices.ContainsFunc(rot.Next, func(sha string) bool { return r.root(sha) == nil }):
		return errors.New("the roots that its rotation brings are not among its roots")
	}
	return nil
}
