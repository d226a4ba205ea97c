package certpath

import (
	"crypto/x509"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestChain: the forms in which CAs return chains come out as the one that every bundle accepts, as far as it is in what came.
func TestChain(t *testing.T) {
	p := &pki{t: t}
	leaf, int2, root1, root2, cross := p.by("leaf", "int2"), p.by("int2", "root2"), p.by("root1", "root1"), p.by("root2", "root2"), p.by("root2", "root1")
	byRoot := p.by("leaf", "root2")
	for name, tt := range map[string]struct {
		in   []*x509.Certificate
		want []*x509.Certificate // nil: refused
	}{
		"in shape":                          {[]*x509.Certificate{leaf, int2}, []*x509.Certificate{leaf, int2}},
		"with its root":                     {[]*x509.Certificate{leaf, int2, root2}, []*x509.Certificate{leaf, int2}},
		"cross-signed, as Vault returns it": {[]*x509.Certificate{leaf, int2, root2, cross, root1}, []*x509.Certificate{leaf, int2, cross}},
		"upside down":                       {[]*x509.Certificate{root1, cross, root2, int2, leaf}, []*x509.Certificate{leaf, int2, cross}},
		"each twice":                        {[]*x509.Certificate{leaf, leaf, int2, int2}, []*x509.Certificate{leaf, int2}},
		"by the root itself":                {[]*x509.Certificate{byRoot, root2}, []*x509.Certificate{byRoot}},
		"a name is no signature":            {[]*x509.Certificate{leaf, (&pki{t: t, keys: map[string]string{"int2": "other"}}).by("int2", "root2")}, []*x509.Certificate{leaf}},
		"another key's":                     {[]*x509.Certificate{int2, root2}, nil},
		"nothing":                           {nil, nil},
		"four":                              {[]*x509.Certificate{leaf, int2, p.by("root2", "int1"), p.by("int1", "P-384")}, []*x509.Certificate{leaf, int2, p.by("root2", "int1"), p.by("int1", "P-384")}},
		"five":                              {[]*x509.Certificate{leaf, int2, p.by("root2", "int1"), p.by("int1", "P-384"), p.by("P-384", "P-521")}, nil},
		"a circle of two":                   {[]*x509.Certificate{leaf, p.by("int2", "int1"), p.by("int1", "int2")}, []*x509.Certificate{leaf, p.by("int2", "int1"), p.by("int1", "int2")}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Chain(p.key("leaf").Public(), tt.in)
			if tt.want == nil {
				if !errors.Is(err, ErrInvalid) {
					t.Errorf("%v, %v, want ErrInvalid", got, err)
				}
				return
			}
			if len(got) > 0 && !InShape(got) {
				t.Errorf("not in shape: %q", names(got))
			}
			if diff := cmp.Diff(names(tt.want), names(got)); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}
