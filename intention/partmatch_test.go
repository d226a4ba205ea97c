package intention

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// searches are the tests that Go decides without the expression that Envoy has, for one value.
func searches(t testing.TB, value string, fold bool) (all []Test) {
	t.Helper()
	for _, h := range []HeaderMatch{{Exact: value}, {Prefix: value}, {Suffix: value}, {Present: true}, {Regex: "a"}} {
		h.Name, h.IgnoreCase = "x-a", fold && !h.Present && h.Regex == ""
		clauses, err := h.tests(Deny)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range clauses {
			for _, test := range c {
				if test.search != nil {
					all = append(all, test)
				}
			}
		}
	}
	return all
}

// equal holds what Go decides to what the expression says.
func equal(t *testing.T, value, text string, fold bool) (n int) {
	t.Helper()
	for _, test := range searches(t, value, fold) {
		n++
		if got, want := test.search.holds(text), compiled(test.RE2()).MatchString(text); got != want {
			t.Errorf("%s of %q is %t, and %t by the expression", test.RE2(), text, got, want)
		}
	}
	return n
}

// FuzzSearch holds tests that are decided without their expression to it.
func FuzzSearch(f *testing.F) {
	for _, s := range [][2]string{{"guest", "a, guest ,b"}, {"guest", "guests"}, {" a", ", a"}, {"a,b", "c,a,b"}, {"a ", "a  ,"}, {",", ",,"}, {"sk", "\u017f\u212a"}, {"a", "\xff,a\xe2\x84"}, {"a\n", "a\n"}} {
		f.Add(s[0], s[1], false)
		f.Add(s[0], s[1], true)
	}
	f.Fuzz(func(t *testing.T, value, text string, fold bool) {
		if len(value) > 0 && len(value) < 100 && isASCIIText(value) {
			equal(t, value, text, fold)
		}
	})
}

// TestSearch is FuzzSearch for short texts of few characters, of which all parts, blanks and letters meet.
func TestSearch(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string, most int) string {
		var b strings.Builder
		for range rng.IntN(most + 1) {
			b.WriteString(from[rng.IntN(len(from))])
		}
		return b.String()
	}
	n := 0
	for range 4000 {
		value := pick([]string{"a", "K", "s", ",", " ", "\t", "\n"}, 3)
		if value == "" {
			continue
		}
		n += equal(t, value, pick([]string{value, strings.ToUpper(value), "a", "k", "S", ",", ",", " ", "\t", "\n", "\u212a", "\u017f", "\xe2", "\xaa", "é"}, 6), rng.IntN(2) == 0)
	}
	if n < 15000 {
		t.Errorf("%d comparisons", n)
	}
}

// TestLongTexts: texts of which every byte may begin a part, or end one, take no longer than others.
func TestLongTexts(t *testing.T) {
	for _, value := range []string{"x", " x", "x ", " ", "  ", ",", "x, x"} {
		for _, text := range []string{strings.Repeat(" ", 1<<20) + "y", strings.Repeat("x ", 1<<19) + "y", strings.Repeat(",", 1<<20) + "y"} {
			for _, test := range searches(t, value, true) {
				test.search.holds(text) // what is quadratic takes minutes
			}
		}
	}
}

// TestNobodyWaits: a decision that nobody waits for any more is to deny, whatever the default is and the permissions would say.
func TestNobodyWaits(t *testing.T) {
	done := make(chan struct{})
	p, err := NewPermissions([]Permission{{Action: Allow}})
	if err != nil {
		t.Fatal(err)
	}
	r := &Request{Method: "GET", Path: "/", Done: done}
	if step := p.decide(r); step == nil || step.Action != Allow {
		t.Errorf("somebody waits: %+v", step)
	}
	close(done)
	if step := p.decide(r); step == nil || step.Action != Deny || step.Permission != 0 {
		t.Errorf("nobody waits: %+v", step)
	}
}
