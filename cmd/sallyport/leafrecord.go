package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/issuance"
)

// openIssuance opens the record of leafs that were issued.
func (p *controlPlane) openIssuance() error {
	record, err := issuance.Open(issuance.Config{File: filepath.Join(p.cfg.Data, "issued-leafs"), Logger: p.log, Registerer: p.metrics})
	if err != nil {
		return err
	}
	p.issued = record
	p.runs = append(p.runs, record.Run)
	p.checks = append(p.checks, record.Health)
	return nil
}

// leafs are those in the record that q takes, with who uses them.
func (p *controlPlane) leafs(q admin.LeafQuery) ([]admin.Leaf, error) {
	serial, err := hexQuery("serial number", q.Serial)
	if err != nil {
		return nil, err
	}
	digest, err := hexQuery("SHA-256", q.SHA256)
	if err != nil {
		return nil, err
	}
	v, _ := p.store.Views.Load()
	service := serviceOf(v, q.Name).String()
	used := map[[sha256.Size]byte][]string{}
	for _, u := range p.secrets.InUse() {
		sum := sha256.Sum256(u.Certificate.Raw)
		for _, c := range u.Callers {
			used[sum] = append(used[sum], issuance.Name(c))
		}
	}
	out := []admin.Leaf{}
	for _, l := range p.issued.Leafs(func(l issuance.Leaf) bool {
		return (q.Name == "" || l.Caller == q.Name || serviceIn(l.ID) == service) &&
			(begins(hex.EncodeToString(l.Serial), serial) || strings.TrimLeft(hex.EncodeToString(l.Serial), "0") == strings.TrimLeft(serial, "0")) &&
			begins(hex.EncodeToString(l.SHA256[:]), digest)
	}) {
		out = append(out, admin.Leaf{
			Service: serviceIn(l.ID), ID: l.ID, Caller: l.Caller, Serial: colonHex(l.Serial), SHA256: hex.EncodeToString(l.SHA256[:]),
			Issued: l.Issued, Ends: l.Ends, InUse: len(used[l.SHA256]) > 0, UsedBy: used[l.SHA256],
		})
	}
	return out, nil
}

// minHex is how many digits of the beginning of a number find it.
const minHex = 8

// hexQuery is a number in hexadecimal as people write it, without what stands between the digits.
func hexQuery(what, text string) (string, error) {
	digits := strings.ToLower(strings.NewReplacer(":", "", " ", "", "-", "", "…", "").Replace(text))
	digits = strings.TrimPrefix(digits, "0x")
	switch {
	case strings.Trim(digits, "0123456789abcdef") != "":
		return "", fmt.Errorf("%s %.100q: is not a number in hexadecimal, as 01:02:ab", what, text)
	case text != "" && digits == "":
		return "", fmt.Errorf("%s %.100q: has no digit", what, text)
	}
	return digits, nil
}

// begins reports whether a number is the one that was asked for, or begins with its minHex digits or more.
func begins(number, asked string) bool {
	return asked == "" || number == asked || len(asked) >= minHex && strings.HasPrefix(number, asked)
}

// serviceIn is the name of the service in a SPIFFE ID.
func serviceIn(id string) string {
	s, err := identity.ParseURI(id)
	if err != nil {
		return id
	}
	return s.Name.String()
}

// colonHex is a number in hexadecimal with two digits to a byte: "01:02".
func colonHex(b []byte) string {
	var s strings.Builder
	for i, x := range b {
		if i > 0 {
			s.WriteByte(':')
		}
		fmt.Fprintf(&s, "%02x", x)
	}
	return s.String()
}

// errNoLeaf says that the record has none that was asked for.
var errNoLeaf = errors.New("no leaf that has not ended is recorded: it has ended, or it is not of this control plane, or of one that kept no record yet")
