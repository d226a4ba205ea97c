package plugin

import (
	"errors"
	"testing"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/certpath"
)

// FuzzAnswer: whatever a plug-in says is an answer or an error of package ca, and no root comes of it that is none.
func FuzzAnswer(f *testing.F) {
	r := newReference(f, "distrust")
	for _, text := range []string{
		`{}`, `null`, `[]`, `{"error": {"code": "pending", "retry_after_seconds": 9223372036854775807}}`, `{"error": null, "roots": ["x"]}`,
		`{"roots": [` + quoted(r.root.PEM()) + `], "distrust": ["` + fingerprint(r.root.Cert) + `"], "refresh_seconds": -1}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		known := func(err error) bool {
			return errors.Is(err, ca.ErrUnavailable) || errors.Is(err, ca.ErrDenied) || errors.Is(err, ca.ErrInvalid)
		}
		a, err := read(text)
		if err != nil {
			if !known(err) {
				t.Errorf("%v", err)
			}
			return
		}
		roots, _, err := readRoots(a, time.Now())
		if err != nil && !known(err) {
			t.Errorf("%v", err)
		}
		for _, c := range roots {
			if !certpath.SelfSigned(c) || !c.IsCA {
				t.Errorf("%s is a root", c.Subject)
			}
		}
	})
}
