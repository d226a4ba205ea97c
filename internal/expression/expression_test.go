package expression_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/internal/expression"
)

type thing struct {
	Name   string
	Count  int
	Meta   map[string]string
	Inner  *inner
	Hidden string `bexpr:"-"`
}

type inner struct{ Name string }

func TestFilter(t *testing.T) {
	list := []thing{{Name: "a", Count: 1, Meta: map[string]string{"v": "1"}, Inner: &inner{"x"}}, {Name: "b", Count: 2, Meta: map[string]string{"v": "2"}, Inner: &inner{}}}
	for text, want := range map[string]string{
		`Name == a`:                      "a",
		`Count != 1`:                     "b",
		`Meta.v == 1 or Meta.v == "2"`:   "a b",
		`not (Inner.Name == "")`:         "a",
		`Name matches "^[ab]$"`:          "a b",
		`Meta.other == 1`:                "",
		`Hidden == x`:                    `Selector "Hidden" is not valid`,
		`Name = a`:                       `1:6 (5): no match found, expected: "!=", "==", "contains", "in", "is", "matches", "not" or [ \t\r\n]`,
		`Count == x`:                     `Failed to coerce value "x" for selector "Count": strconv.ParseInt: parsing "x": invalid syntax`,
		`Name matches "("`:               "Failed to compile regular expression \"(\": error parsing regexp: missing closing ): `(`",
		`Name matches "(a?){1000}"`:      "sallyport reads patterns of 256 bytes in all, without {counts}: they are tried on each change",
		`((((((Name == a))))))`:          "it has parentheses more than 5 deep, which sallyport does not read",
		strings.Repeat("x", 5000):        "it has 5000 bytes, and sallyport reads at most 4096",
		`((((Name == a)))) and (((((x))`: "1:",
	} {
		f, err := expression.New[thing](text)
		got := ""
		if err != nil {
			got = err.Error()
			if want == "1:" {
				got = got[:2]
			}
		} else if some, err := f.Select(list); err != nil {
			t.Errorf("%s: %v", text, err)
		} else {
			var gotText strings.Builder
			for _, s := range some {
				gotText.WriteString(" " + s.Name)
			}
			got += gotText.String()
			got = strings.TrimSpace(got)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

// What a selector leads to need not be there.
func TestAbsent(t *testing.T) {
	f, err := expression.New[thing](`Inner.Name == x`)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := f.Match(thing{}); ok || err == nil {
		t.Errorf("%t, %v", ok, err)
	}
}
