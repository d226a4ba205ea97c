package certpath

import (
	"crypto/x509"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBundle(t *testing.T) {
	p := &pki{t: t}
	edited := func(edit func(*x509.Certificate), subject, signer string) *x509.Certificate {
		return (&pki{t: t, edit: map[string]func(*x509.Certificate){subject + " by " + signer: edit}}).by(subject, signer)
	}
	root1, root2, cross, inter, leaf := p.by("root1", "root1"), p.by("root2", "root2"), p.by("root2", "root1"), p.by("int1", "root1"), p.by("leaf", "int1")
	renewed := edited(func(c *x509.Certificate) { c.NotBefore = verifyTime.Add(-time.Minute) }, "root1", "root1")
	expired := edited(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = verifyTime.Add(-time.Minute), verifyTime }, "root1", "root1")
	early := edited(func(c *x509.Certificate) { c.NotBefore = verifyTime.Add(time.Second) }, "root1", "root1")
	newCross := edited(func(c *x509.Certificate) { c.NotBefore = verifyTime.Add(-time.Minute) }, "root2", "root1")
	noUsage := edited(func(c *x509.Certificate) {
		c.KeyUsage, c.NotBefore = x509.KeyUsageCRLSign, verifyTime.Add(-time.Minute)
	}, "root1", "root1")
	namesake := (&pki{t: t, keys: map[string]string{"root1": "other"}}).by("root1", "root1")
	renamed := (&pki{t: t, keys: map[string]string{"root2": "root1"}}).by("root2", "root2")
	for _, tt := range []struct {
		name      string
		federated bool
		in, want  []*x509.Certificate
		left      []string // beginnings of the reasons
	}{
		{name: "none"},
		{name: "in their order", in: []*x509.Certificate{root2, root1}, want: []*x509.Certificate{root2, root1}},
		{name: "twice", in: []*x509.Certificate{root1, root2, root1}, want: []*x509.Certificate{root1, root2}},
		{name: "an expired twin first", in: []*x509.Certificate{expired, root1}, want: []*x509.Certificate{root1}, left: []string{"expired at 2027-03-01T12:00:00Z"}},
		{name: "an expired twin last", in: []*x509.Certificate{root1, expired}, want: []*x509.Certificate{root1}, left: []string{"expired at"}},
		{name: "not yet valid", in: []*x509.Certificate{early, root1}, want: []*x509.Certificate{root1}, left: []string{"valid only from"}},
		{name: "an expired root alone", in: []*x509.Certificate{expired}, left: []string{"expired at"}},
		{name: "renewed", in: []*x509.Certificate{root1, root2, renewed}, want: []*x509.Certificate{renewed, root2}, left: []string{"another one of its name and key"}},
		{name: "renewed, the other way round", in: []*x509.Certificate{renewed, root2, root1}, want: []*x509.Certificate{renewed, root2}, left: []string{"another one of its name and key"}},
		{name: "another key", in: []*x509.Certificate{root1, namesake}, want: []*x509.Certificate{root1, namesake}},
		{name: "another name of the same key", in: []*x509.Certificate{root1, renamed}, want: []*x509.Certificate{root1, renamed}},
		{name: "a leaf", in: []*x509.Certificate{leaf, root1}, want: []*x509.Certificate{root1}, left: []string{"it is not a CA's"}},
		{name: "a twin that may not sign", in: []*x509.Certificate{noUsage, root1}, want: []*x509.Certificate{root1}, left: []string{"it is not a CA's"}},
		{name: "an intermediate", in: []*x509.Certificate{inter}, want: []*x509.Certificate{inter}},
		{name: "a root before a newer cross-signature", in: []*x509.Certificate{root2, newCross}, want: []*x509.Certificate{root2}, left: []string{"another one of its name and key"}},
		{name: "an intermediate, federated", federated: true, in: []*x509.Certificate{inter, root1}, want: []*x509.Certificate{root1}, left: []string{"it is not self-signed"}},
		{name: "a cross-signature, federated", federated: true, in: []*x509.Certificate{cross}, left: []string{"it is not self-signed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, left := Bundle(tt.in, tt.federated, verifyTime)
			if diff := cmp.Diff(names(tt.want), names(got)); diff != "" || !slices.EqualFunc(got, tt.want, (*x509.Certificate).Equal) {
				t.Errorf("serial numbers differ, or %s", diff)
			}
			if !slices.EqualFunc(left, tt.left, func(l LeftOut, want string) bool { return strings.HasPrefix(l.Reason, want) }) {
				t.Errorf("left out %v, want %q", left, tt.left)
			}
			for _, l := range left {
				if slices.ContainsFunc(got, l.Certificate.Equal) || !slices.ContainsFunc(tt.in, l.Certificate.Equal) {
					t.Errorf("%q is left out: %s", l.Certificate.Subject, l.Reason)
				}
			}
			again, left := Bundle(got, tt.federated, verifyTime)
			if !slices.EqualFunc(got, again, (*x509.Certificate).Equal) || len(left) > 0 {
				t.Errorf("made of itself it is %q, and without %v", names(again), left)
			}
			mixed := slices.Clone(tt.in)
			rand.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
			other, _ := Bundle(mixed, tt.federated, verifyTime)
			for _, c := range got {
				if len(other) != len(got) || !slices.ContainsFunc(other, c.Equal) {
					t.Errorf("in another order it is %q", names(other))
				}
			}
		})
	}
}
