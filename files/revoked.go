package files

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"go.yaml.in/yaml/v3"
)

// RevokedFile is the file of a catalog directory in which revocations are written.
const RevokedFile = "revoked.yaml"

// maxRevoked is how many revocations there may be.
const maxRevoked = 10_000

// Bounds of what is said of a revocation, in bytes.
const (
	maxSerial = 20 // RFC 5280, 4.1.2.2
	maxWords  = 1000
)

// RevokedFiles are the files of a catalog directory that have revocations, if they are there.
func RevokedFiles() []string {
	return []string{RevokedFile, "revoked.yml", "revoked.hcl", "revoked.json"}
}

// isRevoked reports whether a file of a catalog directory holds revocations, and so no definitions.
func isRevoked(name string) bool { return slices.Contains(RevokedFiles(), name) }

// ReadRevoked reads the revocations of a catalog directory; none if there is no file of them. The error is an Errors if a
// file has a mistake; then there are none. A directory without any file says nothing, as in Load, which is an error.
func ReadRevoked(dir string) ([]intention.Revocation, error) {
	if _, err := scan(dir); err != nil {
		return nil, err
	}
	var all []intention.Revocation
	for _, name := range RevokedFiles() {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			// A link whose file is away does not say that nothing is revoked.
			if _, other := os.Lstat(path); errors.Is(other, fs.ErrNotExist) {
				continue
			}
		}
		src, err := readFile(path, listed{name: name, info: info, err: err}, nil)
		if err != nil {
			return nil, Errors{{File: name, Text: err.Error()}}
		}
		some, err := ParseRevoked(name, src)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	if len(all) > maxRevoked {
		return nil, tooMany(dir, len(all))
	}
	return all, nil
}

func tooMany(file string, n int) error {
	return Errors{{File: file, Text: fmt.Sprintf("%d certificates and identities are revoked, %d at most can be: take out those that have ended, and revoke an identity rather than each of its certificates", n, maxRevoked)}}
}

// ParseRevoked reads a file of revocations, whose format follows from its name; without an ending it is YAML. The error is an Errors.
func ParseRevoked(name string, src []byte) ([]intention.Revocation, error) {
	f := &file{name: name}
	documents, err := parseIn(cmp.Or(format(name), "yaml"), name, src)
	if err != nil {
		f.unread(err.Line, err.Text)
		return nil, f.problems
	}
	var all []intention.Revocation
	seen := map[string]definition.Position{}
	reader := definition.Reader{Report: func(m definition.Mistake) { f.problem(m.At, "%s", m.Text) }}
	for _, n := range documents {
		o := reader.Decoder(n, "the file")
		o.Hint = ": the file holds revoked, a list"
		for _, e := range o.Children("revoked", "revoked") {
			r, ok := revocation(e)
			if !ok {
				continue
			}
			about := r.ID
			if r.OfCertificate() {
				about = "certificate " + r.Serial + " " + r.SHA256
			}
			if first, twice := seen[about]; twice {
				e.Mistake(e.At, "%s is revoked already at %s: take one out", r.String(), first)
				continue
			}
			seen[about] = e.At
			all = append(all, r)
		}
		o.Done()
	}
	f.end(name)
	switch {
	case len(f.problems) > 0:
		return nil, f.problems.sorted()
	case len(all) > maxRevoked:
		return nil, tooMany(name, len(all))
	}
	return all, nil
}

// revocation reads one of the list; ok is false if it has a mistake.
func revocation(e *definition.Decoder) (r intention.Revocation, ok bool) {
	ok = true
	mistake := func(s definition.Setting[string], err error) {
		if err != nil {
			ok = false
			e.Mistake(s.At, "%s", err)
		}
	}
	text := func(key string, parse func(string) (string, error)) string {
		s := e.Text(key)
		if given := e.Given(key); !s.Set && len(given) > 0 && !e.Faulty(key) {
			// Without it the entry would be about something else: about an identity in the place of its certificate.
			s.At = given[0].At
			mistake(s, fmt.Errorf("%s is empty: give it, or leave the key out", key))
		}
		if !s.Set {
			return ""
		}
		v, err := parse(s.Value)
		mistake(s, err)
		return v
	}
	at := func(key string) (t time.Time) {
		if s := e.Text(key); s.Set {
			var err error
			if t, err = time.Parse(time.RFC3339, s.Value); err != nil {
				err = fmt.Errorf("%s %.60q: want a time as 2027-01-31T12:00:00Z", key, s.Value)
			}
			mistake(s, err)
		}
		return t
	}
	r = intention.Revocation{
		ID: text("spiffe_id", SPIFFEID), Serial: text("serial", Serial), SHA256: text("sha256", SHA256),
		Reason: text("reason", words), By: text("by", words), At: at("at"), Until: at("until"), Origin: e.At.String(),
	}
	e.Done()
	if ok && !e.Broken && !e.Faulty("spiffe_id", "serial", "sha256") && r.ID == "" && !r.OfCertificate() {
		e.Mistake(e.At, "names nothing: give the serial or the sha256 of a certificate, or the spiffe_id of an identity")
	}
	return r, ok && !e.Broken && (r.ID != "" || r.OfCertificate())
}

// SPIFFEID is the SPIFFE ID of a workload as it is compared, or an error.
func SPIFFEID(text string) (string, error) {
	if _, err := identity.ParseID(text); err != nil {
		return "", fmt.Errorf("spiffe_id: %w", err)
	}
	return text, nil
}

// Serial is the serial number of a certificate as revocations have it, of any form in which numbers are shown: in
// lower case, without colons and leading zeros.
func Serial(text string) (string, error) {
	digits := strings.TrimPrefix(strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(text)), "0x")
	if strings.Trim(digits, "0123456789abcdef") != "" || digits == "" {
		return "", fmt.Errorf("serial %.60q: want the serial number of a certificate in hexadecimal, as 01:02:ab", text)
	}
	if digits = strings.TrimLeft(digits, "0"); len(digits) > 2*maxSerial {
		return "", fmt.Errorf("serial %.60q: a serial number has %d bytes at most", text, maxSerial)
	}
	if digits == "" {
		digits = "0"
	}
	return digits, nil
}

// SHA256 is the digest of a certificate likewise, of which nothing is left out.
func SHA256(text string) (string, error) {
	digits := strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(text))
	if b, err := hex.DecodeString(digits); err != nil || len(b) != 32 {
		return "", fmt.Errorf("sha256 %.80q: want the SHA-256 of the certificate's DER, 64 digits in hexadecimal", text)
	}
	return digits, nil
}

// words are what people say.
func words(text string) (string, error) {
	switch {
	case len(text) > maxWords:
		return "", fmt.Errorf("%.40q… has %d bytes, %d at most", text, len(text), maxWords)
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", fmt.Errorf("%.60q has characters that cannot be printed", text)
	}
	return text, nil
}

// writtenRevocation is a revocation as it is written.
type writtenRevocation struct {
	ID     string `yaml:"spiffe_id,omitempty"`
	Serial string `yaml:"serial,omitempty"`
	SHA256 string `yaml:"sha256,omitempty"`
	Until  string `yaml:"until,omitempty"`
	Reason string `yaml:"reason,omitempty"`
	By     string `yaml:"by,omitempty"`
	At     string `yaml:"at,omitempty"`
}

func writtenOf(r intention.Revocation) writtenRevocation {
	return writtenRevocation{ID: r.ID, Serial: r.Serial, SHA256: r.SHA256, Until: moment(r.Until), Reason: r.Reason, By: r.By, At: moment(r.At)}
}

// FormatRevoked is the text of RevokedFile with these revocations, as ParseRevoked reads it. The error is that one cannot be
// written, or that they are too many.
func FormatRevoked(all []intention.Revocation) ([]byte, error) {
	if len(all) > maxRevoked {
		return nil, tooMany(RevokedFile, len(all))
	}
	list := make([]writtenRevocation, len(all))
	for i, r := range all {
		for _, text := range []string{r.Reason, r.By} {
			if _, err := words(text); err != nil {
				return nil, err
			}
		}
		list[i] = writtenOf(r)
	}
	b, err := yaml.Marshal(map[string]any{"revoked": list})
	if err != nil {
		return nil, errors.Join(errors.New("revocations cannot be written"), err)
	}
	return append([]byte("# What is taken out is in force again.\n"), b...), nil
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
