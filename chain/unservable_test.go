package chain_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/chain"
)

func setting(name, value string) *chain.Router {
	return leading(chain.Destination{RequestHeaders: &chain.HeaderModifiers{Set: map[string]string{name: value}}})
}

func TestUnservable(t *testing.T) {
	one := map[string]string{"a": "b"}
	headers := func(h ...chain.HeaderMatch) *chain.Router { return matching(chain.HTTPMatch{Header: h}) }
	for _, c := range []struct {
		entry any
		want  string
	}{
		{router("a", chain.Route{}, chain.Route{Match: &chain.HTTPMatch{}, Destination: &chain.Destination{}}), ""},
		{leading(chain.Destination{
			PrefixRewrite: "/a?b=", RetryOn: []string{"reset-before-request", "5xx"},
			RequestHeaders: &chain.HeaderModifiers{Set: one, Add: map[string]string{"x-a": "100%% of %REQ(:path?x-b):10%, at %START_TIME(%Y-%m)%"}, Remove: []string{"content-length", "x_y"}},
		}), ""},
		{matching(chain.HTTPMatch{PathRegex: "/a/(?i)b[^/]+", Header: []chain.HeaderMatch{{Name: ":path", Regex: "a"}, {Name: "x", Contains: "y", IgnoreCase: true}}}), ""},

		{router("a", chain.Route{Unknown: []string{"Match.HTTP.Host"}}), `Routes[0].Match: Route[0] matches by Match.HTTP.Host, which sallyport does not know`},
		{matching(chain.HTTPMatch{PathRegex: "/(?=a)"}), "Routes[0].Match.HTTP.PathRegex: Route[0] PathRegex: not a regular expression of RE2's: error parsing regexp: invalid or unsupported Perl syntax: `(?=`"},
		{matching(chain.HTTPMatch{PathRegex: strings.Repeat("a", 1025)}), "Routes[0].Match.HTTP.PathRegex: Route[0] PathRegex: the regular expression has 1025 bytes: at most 1024"},
		{matching(chain.HTTPMatch{PathRegex: "((a{30}){30}){10}"}), "Routes[0].Match.HTTP.PathRegex: Route[0] PathRegex: not a regular expression of RE2's: error parsing regexp: invalid repeat count: `{10}`"},
		{matching(chain.HTTPMatch{PathRegex: strings.Repeat("a{1000}", 6)}), "Routes[0].Match.HTTP.PathRegex: Route[0] PathRegex: the regular expression is too large: 6002 instructions, where 5000 are taken"},
		{matching(chain.HTTPMatch{PathExact: "/a", PathPrefix: "/b"}), "Routes[0].Match.HTTP: Route[0] has more than one of PathExact, PathPrefix and PathRegex"},
		{matching(chain.HTTPMatch{Methods: []string{"G T"}}), `Routes[0].Match.HTTP.Methods[0]: Route[0]: "G T" cannot be a method`},
		{headers(chain.HeaderMatch{Name: "x", Present: true}, chain.HeaderMatch{Name: "x", Regex: "("}), "Routes[0].Match.HTTP.Header[1].Regex: Route[0] Header[1] Regex: not a regular expression of RE2's: error parsing regexp: missing closing ): `(`"},
		{headers(chain.HeaderMatch{Name: "x y", Present: true}), `Routes[0].Match.HTTP.Header[0].Name: Route[0] Header[0]: "x y" cannot be the name of a header`},
		{headers(chain.HeaderMatch{Name: "x"}), `Routes[0].Match.HTTP.Header[0]: Route[0] Header[0] has none or several of Present, Exact, Prefix, Suffix, Contains and Regex`},
		{headers(chain.HeaderMatch{Name: "x", Regex: "a", IgnoreCase: true}), `Routes[0].Match.HTTP.Header[0].IgnoreCase: Route[0] Header[0]: IgnoreCase is for Exact, Prefix, Suffix and Contains; write (?i) in front of a Regex`},
		{matching(chain.HTTPMatch{QueryParam: []chain.QueryMatch{{Present: true}}}), `Routes[0].Match.HTTP.QueryParam[0].Name: Route[0] QueryParam[0]: a Name has 1 to 1024 bytes`},
		{matching(chain.HTTPMatch{QueryParam: []chain.QueryMatch{{Name: "x", Regex: "["}}}), "Routes[0].Match.HTTP.QueryParam[0].Regex: Route[0] QueryParam[0] Regex: not a regular expression of RE2's: error parsing regexp: missing closing ]: `[`"},
		{leading(chain.Destination{PrefixRewrite: "x"}), `Routes[0].Destination.PrefixRewrite: Route[0] PrefixRewrite doesn't start with '/', so every request would be broken: "x"`},
		{leading(chain.Destination{PrefixRewrite: "/x y"}), `Routes[0].Destination.PrefixRewrite: Route[0] PrefixRewrite has a character that no path can have: "/x y"`},
		{leading(chain.Destination{RetryOn: []string{"always"}}), `Routes[0].Destination.RetryOn[0]: Route[0] has a retry condition that Envoy does not know: "always"`},
		{setting("Host", "x"), `Routes[0].Destination.RequestHeaders.Set.Host: Route[0] RequestHeaders.Set: "Host" cannot be changed: Envoy refuses host and names that begin with ':'`},
		{setting(":path", "x"), `Routes[0].Destination.RequestHeaders.Set.:path: Route[0] RequestHeaders.Set: ":path" cannot be changed: Envoy refuses host and names that begin with ':'`},
		{setting("", "x"), `Routes[0].Destination.RequestHeaders.Set.: Route[0] RequestHeaders.Set: "" cannot be the name of a header`},
		{setting("a b", "x"), `Routes[0].Destination.RequestHeaders.Set.a b: Route[0] RequestHeaders.Set: "a b" cannot be the name of a header`},
		{setting("a\n", "x"), `Routes[0].Destination.RequestHeaders.Set.` + "a\n" + `: Route[0] RequestHeaders.Set: "a\n" cannot be the name of a header`},
		{setting("Content-Length", "x"), `Routes[0].Destination.RequestHeaders.Set.Content-Length: Route[0] RequestHeaders.Set: "Content-Length" says how long a message is, so every one would be broken`},
		{setting("x", "50%"), `Routes[0].Destination.RequestHeaders.Set.x: Route[0] RequestHeaders.Set of "x": a lone % in "50%": write %% for one, or %COMMAND%`},
		{setting("x", "%%START_TIME%"), `Routes[0].Destination.RequestHeaders.Set.x: Route[0] RequestHeaders.Set of "x": a lone % in "%%START_TIME%": write %% for one, or %COMMAND%`},
		{setting("x", "%NOPE%"), `Routes[0].Destination.RequestHeaders.Set.x: Route[0] RequestHeaders.Set of "x": %NOPE% is no command that Envoys know`},
		{setting("x", "%REQ%"), `Routes[0].Destination.RequestHeaders.Set.x: Route[0] RequestHeaders.Set of "x": the command %REQ% is not written so: Envoys refuse its argument, or that it has none`},
		{setting("x", "%PROTOCOL(x)%"), `Routes[0].Destination.RequestHeaders.Set.x: Route[0] RequestHeaders.Set of "x": the command %PROTOCOL(x)% is not written so: Envoys refuse its argument, or that it has none`},
		{setting("x", "a\r\nb: c"), `Routes[0].Destination.RequestHeaders.Set.x: Route[0] RequestHeaders.Set of "x": the value has a character that no header can have`},
		{
			leading(chain.Destination{ResponseHeaders: &chain.HeaderModifiers{Add: map[string]string{"x y": ""}, Remove: []string{"ok", ":status"}}}),
			`Routes[0].Destination.ResponseHeaders.Add.x y: Route[0] ResponseHeaders.Add: "x y" cannot be the name of a header
Routes[0].Destination.ResponseHeaders.Remove[1]: Route[0] ResponseHeaders.Remove: ":status" cannot be changed: Envoy refuses host and names that begin with ':'`,
		},

		{splitter("a", chain.Split{Weight: 100}, chain.Split{Weight: 0, Service: "b"}), ""},
		{splitter("a", chain.Split{Weight: -1}, chain.Split{Weight: 101, Service: "b"}), `Splits[0].Weight: Split[0] has a Weight of -1: it must be 0 to 100
Splits[1].Weight: Split[1] has a Weight of 101: it must be 0 to 100`},
		{splitter("a", chain.Split{Weight: math.NaN()}), `Splits[0].Weight: Split[0] has a Weight of NaN: it must be 0 to 100`},
		{splitter("a", chain.Split{}), `Splits: all splits have a weight of 0, so no request can be answered`},
		{splitter("a", chain.Split{Weight: 100, RequestHeaders: &chain.HeaderModifiers{Remove: []string{"host"}}}), `Splits[0].RequestHeaders.Remove[0]: Split[0] RequestHeaders.Remove: "host" cannot be changed: Envoy refuses host and names that begin with ':'`},

		{hashing(chain.HashPolicy{SourceIP: true}, chain.HashPolicy{Field: "header", FieldValue: ":path"}, chain.HashPolicy{Field: "query_parameter", FieldValue: "x y"}), ""},
		{hashing(chain.HashPolicy{}), `LoadBalancer.HashPolicies[0]: LoadBalancer HashPolicy[0]: it says nothing to hash: give Field and FieldValue, or SourceIP`},
		{hashing(chain.HashPolicy{Field: "cookie", FieldValue: "a;b"}), `LoadBalancer.HashPolicies[0]: LoadBalancer HashPolicy[0]: FieldValue "a;b" cannot be the name of a cookie`},
		{hashing(chain.HashPolicy{Field: "cookie", FieldValue: "a", Cookie: &chain.CookieConfig{TTL: -time.Second}}), `LoadBalancer.HashPolicies[0]: LoadBalancer HashPolicy[0]: the TTL of a cookie is -1s: it must be >= 0`},
		{hashing(chain.HashPolicy{Field: "cookie", FieldValue: "a", Cookie: &chain.CookieConfig{Path: "/; Secure"}}), `LoadBalancer.HashPolicies[0]: LoadBalancer HashPolicy[0]: "/; Secure" cannot be the path of a cookie`},
		{balanced(chain.LoadBalancer{Policy: "ring_hash", RingHash: &chain.RingHash{MaximumRingSize: 100}}), `LoadBalancer.RingHashConfig: RingHashConfig: MinimumRingSize (1024; 1024 if it is not given) is greater than MaximumRingSize (100)`},
		{balanced(chain.LoadBalancer{Policy: "ring_hash", RingHash: &chain.RingHash{MinimumRingSize: 10, MaximumRingSize: 100}}), ""},
		{balanced(chain.LoadBalancer{Policy: "ring_hash", RingHash: &chain.RingHash{MaximumRingSize: 9 << 20}}), `LoadBalancer.RingHashConfig: RingHashConfig: a ring has at most 8388608 entries`},
		{balanced(chain.LoadBalancer{Policy: "least_request", LeastRequest: &chain.LeastRequest{ChoiceCount: 1}}), `LoadBalancer.LeastRequestConfig.ChoiceCount: LeastRequestConfig: ChoiceCount is 1: it must be 2 or more`},
		{resolver("a", chain.Resolver{Subsets: map[string]chain.Subset{"v1": {Filter: "Service.Meta.v == 1"}, "v2": {Filter: "Meta.v == 1"}}}), `Subsets.v2.Filter: Filter for subset "v2" is not a valid expression: Selector "Meta" is not valid`},
	} {
		var got []string
		for _, m := range c.entry.(interface{ Unservable() []*chain.Mistake }).Unservable() {
			if m.Service.Service != "a" || m.Origin == "" || m.Kind == "" {
				t.Errorf("%+v", m)
			}
			got = append(got, m.Place()+": "+m.Message)
		}
		if diff := cmp.Diff(c.want, strings.Join(got, "\n")); diff != "" {
			t.Errorf("%+v: %s", c.entry, diff)
		}
	}
}

// Of a compiled chain single routes and legs are asked, and a balancer that is not there.
func TestUnservableParts(t *testing.T) {
	var got []string
	for _, m := range (&chain.Route{Destination: &chain.Destination{PrefixRewrite: "x"}}).Unservable() {
		got = append(got, m.Place()+": "+m.Message)
	}
	for _, m := range (&chain.Split{Weight: 200}).Unservable() {
		got = append(got, m.Place()+": "+m.Message)
	}
	for _, m := range (&chain.Resolver{LoadBalancer: &chain.LoadBalancer{Policy: "x"}}).Unservable() {
		got = append(got, m.Place()+": "+m.Message)
	}
	if diff := cmp.Diff([]string{
		`Destination.PrefixRewrite: the route PrefixRewrite doesn't start with '/', so every request would be broken: "x"`,
		`Weight: the split has a Weight of 200: it must be 0 to 100`,
		`LoadBalancer.Policy: LoadBalancer policy "x" is not known`,
	}, got); diff != "" {
		t.Error(diff)
	}
}
