package intention_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/intention"
	"pgregory.net/rapid"
)

// reserved are the characters that may be plain and encoded in a path.
const reserved = "!\"$&'()*+,:<=>@[]^`{|}"

// escaped is s with all of its bytes encoded.
func escaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

// decides is what a policy of one permission says of a path, above a default that does the other thing.
func decides(t testing.TB, p intention.Permission, path string) intention.Decision {
	t.Helper()
	policy := compile("api", intention.Allow-p.Action, intention.Intention{Source: source("web"), Permissions: permissions(t, p)})
	return policy.DecideRequest(workload("web"), request("GET "+path))
}

// TestDenySpellings: a denying permission holds for every spelling of a path, an allowing one for the one that it says.
func TestDenySpellings(t *testing.T) {
	exact := func(s string) intention.Permission { return intention.Permission{PathExact: s} }
	prefix := func(s string) intention.Permission { return intention.Permission{PathPrefix: s} }
	regex := func(s string) intention.Permission { return intention.Permission{PathRegex: s} }
	for _, c := range []struct {
		of              intention.Permission
		same, also, not string // same: what it says; also: other spellings of it
	}{
		{exact("/caf%C3%A9"), "/caf%C3%A9", "/caf%c3%a9 /caf%C3%a9 /caf%c3%A9?x", "/caf%C3%A8 /caf%C3%A9x /x?/caf%c3%a9"},
		{exact("/caf%c3%a9"), "/caf%c3%a9", "/caf%C3%A9", "/caf"},
		{prefix("/v1/jobs:run"), "/v1/jobs:run /v1/jobs:runs/x?y", "/v1/jobs%3Arun /v1/jobs%3arun/x", "/v1/jobs /v1/jobs%3Drun /v1/jobs=run"},
		{exact("/v1/jobs%3Arun"), "/v1/jobs%3Arun", "/v1/jobs:run /v1/jobs%3arun", "/v1/jobs%253Arun /v1/jobs"},
		{prefix("/$metadata"), "/$metadata", "/%24metadata /%24metadata/x", "/metadata /%2524metadata"},
		{prefix("/a%"), "/a%20 /a%3A /a%3a", "/a:", "/ab /b%20"},
		{prefix("/a%c"), "/a%c3%a9", "/a%C3%A9", "/a%20 /a%d3%a9"},
		{prefix("/a%2"), "/a%20 /a%2C /a%2c/x", "/a,", "/a: /a%3A"},
		{regex("/caf%C3%A9"), "/caf%C3%A9", "/caf%c3%a9", "/caf%C3%A8"},
		{regex("/v1/jobs:run"), "/v1/jobs:run", "/v1/jobs%3Arun /v1/jobs%3arun?x", "/v1/jobs"},
		{regex("/v1/jobs%3Arun"), "/v1/jobs%3Arun", "/v1/jobs:run /v1/jobs%3arun", "/v1/jobs"},
		{regex("/[$]metadata.*"), "/$metadata /$metadata/x", "/%24metadata", "/metadata"},
		{regex("/(?i)JOBS%3A(a|b)"), "/jobs%3aB", "/jobs:a", "/jobs%3Ac"},
		{regex("/[a:]+x"), "/a:x", "/a%3Ax /%3a%3Ax", "/%3Dx /x"},
		{regex("/a/[^/]"), "/a/: /a/b", "/a/%3A /a/%24", "/a/%20x /a/bc /a/::"},
		{regex("/a/.*/b"), "/a/:/b", "", "/a/b"},
		{regex("/%2a|/%3c|/%3ax"), "/%2a", "/* /%2A /< /:x /%3Ax", "/: /%3AX"},
		{regex("/%(2a|3c)"), "/%2a /%3c", "/* /< /%3C", "/: /a"},
		{regex("/%3[aA]|/%[0-9a-f]{2}x"), "/%3a /%3A", "/: /*x /%2Ax", "/< /x"},
		{regex("/a(:b)?"), "/a /a:b", "/a%3Ab", "/a:"},
		{regex("/a.{2}"), "/abc /a::", "/a%3A%3a /a:%3A", "/a: /a%3A"},
	} {
		for _, action := range []intention.Action{intention.Allow, intention.Deny} {
			c.of.Action = action
			t.Run(fmt.Sprintf("%s %s", action, c.of.PathExact+c.of.PathPrefix+c.of.PathRegex), func(t *testing.T) {
				for path := range strings.FieldsSeq(c.same) {
					if d := decides(t, c.of, path); d.Action != action || d.Permission != 1 {
						t.Errorf("%s: %s by %d", path, d.Action, d.Permission)
					}
				}
				for path := range strings.FieldsSeq(c.also) {
					if d := decides(t, c.of, path); d.Action != intention.Deny || action == intention.Deny && d.Permission != 1 {
						t.Errorf("%s: %s by %d", path, d.Action, d.Permission)
					}
				}
				for path := range strings.FieldsSeq(c.not) {
					if d := decides(t, c.of, path); d.Action == action {
						t.Errorf("%s: %s by %d", path, d.Action, d.Permission)
					}
				}
			})
		}
	}
}

// TestDenySpellingsTests: which tests a path becomes.
func TestDenySpellingsTests(t *testing.T) {
	for _, c := range []struct {
		of   intention.Permission
		want intention.Test
	}{
		{intention.Permission{PathExact: "/a-b._~/c"}, intention.Test{Kind: intention.Path, Value: "/a-b._~/c"}},
		{intention.Permission{PathPrefix: "/a/"}, intention.Test{Kind: intention.Prefix, Value: "/a/"}},
		{intention.Permission{PathExact: "/a:"}, intention.Test{Kind: intention.Expression, Value: `/a(?::|%3[Aa])(?:[?]\C*)?`}},
		{intention.Permission{PathPrefix: "/%c3"}, intention.Test{Kind: intention.Expression, Value: `/%[Cc]3\C*`}},
		{intention.Permission{PathExact: "/a:", Action: intention.Allow}, intention.Test{Kind: intention.Path, Value: "/a:"}},
		{intention.Permission{PathPrefix: "/a:", Action: intention.Allow}, intention.Test{Kind: intention.Prefix, Value: "/a:"}},
		{intention.Permission{PathRegex: "/a:", Action: intention.Allow}, intention.Test{Kind: intention.Expression, Value: `(?:/a:)(?:[?]\C*)?`}},
	} {
		got := permissions(t, c.of).Steps()[1].Clauses[0][0]
		if diff := cmp.Diff([]any{c.want.Kind, c.want.Value}, []any{got.Kind, got.Value}); diff != "" {
			t.Errorf("%s %+v (-want +got):\n%s", c.of.Action, c.of, diff)
		}
	}
	if _, err := intention.NewPermissions([]intention.Permission{{PathExact: "/" + strings.Repeat(":", 5000)}}); err == nil {
		t.Error("a path of 5001 bytes with other spellings is taken")
	}
}

// TestDenyAnySpelling: a permission that denies a path denies it however it is spelled, by each kind of condition, and one that is for what
// is said without a token, too.
func TestDenyAnySpelling(t *testing.T) {
	part := rapid.Custom(func(t *rapid.T) [2]string {
		if rapid.Bool().Draw(t, "escape") {
			c := rapid.SampledFrom(append(strings.Split(reserved, ""), " ", "#", "%", "?", "é", "ß", "世")).Draw(t, "encoded")
			var both [2]string
			for i := range both {
				switch form := rapid.IntRange(0, 2).Draw(t, "form"); {
				case form == 0 && strings.Contains(reserved, c):
					both[i] = c
				case form == 1:
					both[i] = escaped(c)
				default:
					both[i] = strings.ToLower(escaped(c))
				}
			}
			return both
		}
		s := rapid.SampledFrom([]string{"a", "Z", "0", "-", "~", "/b", "A9"}).Draw(t, "plain")
		return [2]string{s, s}
	})
	rapid.Check(t, func(t *rapid.T) {
		said, asked := "/x", "/x"
		for _, p := range rapid.SliceOfN(part, 1, 8).Draw(t, "parts") {
			said, asked = said+p[0], asked+p[1]
		}
		for _, p := range []intention.Permission{{PathExact: said}, {PathPrefix: said}, {PathRegex: regexp.QuoteMeta(said)}, {PathRegex: regexp.QuoteMeta(said) + "|/y%3A"}} {
			list, err := intention.NewPermissions([]intention.Permission{p})
			if err != nil {
				t.Fatal(err)
			}
			policy := compile("api", intention.Allow, intention.Intention{Source: source("web"), Permissions: list})
			d := policy.DecideRequest(workload("web"), request("GET "+asked))
			if d.Action != intention.Deny || d.Permission != 1 {
				t.Fatalf("deny %+v, asked %s: %s by %d", p, asked, d.Action, d.Permission)
			}
		}
		if p := (intention.Permission{Action: intention.Allow, PathExact: said}); said != asked {
			list, err := intention.NewPermissions([]intention.Permission{p})
			if err != nil {
				t.Fatal(err)
			}
			policy := compile("api", intention.Deny, intention.Intention{Source: source("web"), Permissions: list})
			if d := policy.DecideRequest(workload("web"), request("GET "+asked)); d.Action != intention.Deny {
				t.Fatalf("allow %s, asked %s: %s", said, asked, d.Action)
			}
		}
	})
}

// TestDenyNoLess: a denying expression takes all paths that it says, whatever it is made of.
func TestDenyNoLess(t *testing.T) {
	pieces := []string{"a", ":", "%", "%3", "%3A", "%3a", "3", "A", "(?i:a)", ".", ".*", "[:a]", "[^/]+", "[a%3]", "[0-9A-Fa-f]", "{2}", "{1,2}", "?", "*", "|", "(", ")", "(?:", "%2a|%3b", "[$-~]", `\$`, "/"}
	paths := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "A", "3", ":", "$", "%3A", "%3a", "%2A", "%24", "%C3%a9", "%20"}), 0, 6)
	met := 0
	rapid.Check(t, func(t *rapid.T) {
		text := "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 1, 7).Draw(t, "expression"), "")
		if _, err := regexp.Compile(text); err != nil {
			return
		}
		want := regexp.MustCompile(`\A(?:` + text + `)\z`)
		list, err := intention.NewPermissions([]intention.Permission{{PathRegex: text}})
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		policy := compile("api", intention.Allow, intention.Intention{Source: source("web"), Permissions: list})
		for range 30 {
			path := "/" + strings.Join(paths.Draw(t, "path"), "")
			if !want.MatchString(path) {
				continue
			}
			met++
			if d := policy.DecideRequest(workload("web"), request("GET "+path)); d.Permission != 1 {
				t.Fatalf("deny %s, asked %s: %s by %d: %s", text, path, d.Action, d.Permission, list.Steps()[1].Clauses[0][0].Value)
			}
		}
	})
	if met == 0 {
		t.Error("no expression took any path")
	}
}
