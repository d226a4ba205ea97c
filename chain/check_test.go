package chain_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/chain"
)

// checked are the mistakes of a router, splitter or resolver.
func checked(entry any) (list []*chain.Mistake) {
	return entry.(interface{ Check() []*chain.Mistake }).Check()
}

func matching(m chain.HTTPMatch) *chain.Router { return router("a", chain.Route{Match: &m}) }

func leading(d chain.Destination) *chain.Router { return router("a", chain.Route{Destination: &d}) }

func balanced(l chain.LoadBalancer) *chain.Resolver {
	return resolver("a", chain.Resolver{LoadBalancer: &l})
}

func hashing(h ...chain.HashPolicy) *chain.Resolver {
	return balanced(chain.LoadBalancer{Policy: "maglev", HashPolicies: h})
}

func failing(name string, f chain.Failover) *chain.Resolver {
	return resolver("a", chain.Resolver{Subsets: map[string]chain.Subset{"v1": {}}, Failover: map[string]chain.Failover{name: f}})
}

// The words are Consul 1.19.2's; the suite in e2e asks it. Paths come before the colon.
func TestCheck(t *testing.T) {
	one := map[string]string{"a": "b"}
	for _, c := range []struct {
		entry any
		want  string
	}{
		{router("a"), ""},
		{router("a", chain.Route{}, chain.Route{Match: &chain.HTTPMatch{}, Destination: &chain.Destination{}}), ""},
		{matching(chain.HTTPMatch{PathExact: "x"}), `Routes[0].Match.HTTP.PathExact: Route[0] PathExact doesn't start with '/': "x"`},
		{matching(chain.HTTPMatch{PathPrefix: "x"}), `Routes[0].Match.HTTP.PathPrefix: Route[0] PathPrefix doesn't start with '/': "x"`},
		{matching(chain.HTTPMatch{PathPrefix: "/x", PathRegex: "x"}), `Routes[0].Match.HTTP: Route[0] should only contain at most one of PathExact, PathPrefix, or PathRegex`},
		{matching(chain.HTTPMatch{Header: []chain.HeaderMatch{{Present: true}}}), `Routes[0].Match.HTTP.Header[0].Name: Route[0] Header[0] missing required Name field`},
		{matching(chain.HTTPMatch{Header: []chain.HeaderMatch{{Name: "x", Present: true}, {Name: "x", Contains: "x", Exact: "x"}}}), `Routes[0].Match.HTTP.Header[1]: Route[0] Header[1] should only contain one of Present, Exact, Prefix, Suffix, or Regex`},
		{matching(chain.HTTPMatch{Header: []chain.HeaderMatch{{Name: "x", Invert: true}}}), `Routes[0].Match.HTTP.Header[0]: Route[0] Header[0] should only contain one of Present, Exact, Prefix, Suffix, or Regex`},
		{matching(chain.HTTPMatch{QueryParam: []chain.QueryMatch{{Exact: "x"}}}), `Routes[0].Match.HTTP.QueryParam[0].Name: Route[0] QueryParam[0] missing required Name field`},
		{matching(chain.HTTPMatch{QueryParam: []chain.QueryMatch{{Name: "x"}}}), `Routes[0].Match.HTTP.QueryParam[0]: Route[0] QueryParam[0] should only contain one of Present, Exact, or Regex`},
		{matching(chain.HTTPMatch{Methods: []string{"GET", "FETCH"}}), `Routes[0].Match.HTTP.Methods[1]: Route[0] Methods contains an invalid method "FETCH"`},
		{matching(chain.HTTPMatch{Methods: []string{"GET", "GET"}}), `Routes[0].Match.HTTP.Methods[1]: Route[0] Methods contains "GET" more than once`},
		{leading(chain.Destination{RetryOn: []string{"5xx", "always"}}), `Routes[0].Destination.RetryOn[1]: Route[0] contains an invalid retry condition: "always"`},
		{leading(chain.Destination{PrefixRewrite: "/"}), `Routes[0].Destination.PrefixRewrite: Route[0] cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix`},

		{splitter("a"), `Splits: no splits configured`},
		{splitter("a", chain.Split{Weight: 33.333}, chain.Split{Weight: 33.333, Service: "b"}, chain.Split{Weight: 33.333, Service: "c"}), `Splits: the sum of all split weights must be 100, not 99.989998`},
		{splitter("a", chain.Split{Weight: 49.995}, chain.Split{Weight: 50, Service: "b"}), ""},
		{splitter("a", chain.Split{Weight: 60}, chain.Split{Weight: 50, Service: "a"}), `Splits[1]: split destination occurs more than once: service="a", subset="", namespace="", partition=""
Splits: the sum of all split weights must be 100, not 110.000000`},
		{splitter("a", chain.Split{Weight: 60}, chain.Split{Weight: 40, RequestHeaders: &chain.HeaderModifiers{Set: one}}), ""},

		{resolver("a", chain.Resolver{}), ""},
		{resolver("a", chain.Resolver{Subsets: map[string]chain.Subset{"": {}}}), `Subsets.: Subset defined with empty name`},
		{resolver("a", chain.Resolver{Subsets: map[string]chain.Subset{"V1": {}}}), `Subsets.V1: Subset "V1" is invalid: must be 63 characters or fewer, begin or end with lower case alphanumeric characters, and contain lower case alphanumeric characters or '-' in between`},
		{resolver("a", chain.Resolver{Subsets: map[string]chain.Subset{strings.Repeat("a", 64): {}}}), fmt.Sprintf(`Subsets.%s: Subset %[1]q is invalid: must be non-empty and 63 characters or fewer`, strings.Repeat("a", 64))},
		{resolver("a", chain.Resolver{Subsets: map[string]chain.Subset{"v-1": {Filter: "a = 1"}}}), `Subsets.v-1.Filter: Filter for subset "v-1" is not a valid expression: 1:3 (2): no match found, expected: "!=", "==", "contains", "in", "is", "matches", "not" or [ \t\r\n]`},
		{resolver("a", chain.Resolver{DefaultSubset: "v2"}), `DefaultSubset: DefaultSubset "v2" is not a valid subset`},
		{resolver("a", chain.Resolver{Redirect: &chain.Redirect{}}), `Redirect: Redirect is empty`},
		{resolver("a", chain.Resolver{Redirect: &chain.Redirect{Service: "b"}, Failover: map[string]chain.Failover{"*": {Service: "b"}}}), `Redirect: Redirect and Failover cannot both be set`},
		{resolver("a", chain.Resolver{Redirect: &chain.Redirect{Subset: "v1"}}), `Redirect.ServiceSubset: Redirect.ServiceSubset defined without Redirect.Service`},
		{resolver("a", chain.Resolver{Redirect: &chain.Redirect{Service: "a", Subset: "v9"}}), `Redirect.ServiceSubset: Redirect.ServiceSubset "v9" is not a valid subset of "a"`},
		{resolver("a", chain.Resolver{Redirect: &chain.Redirect{Peer: "p"}}), `Redirect.Peer: Redirect.Peer defined without Redirect.Service`},
		{resolver("a", chain.Resolver{Redirect: &chain.Redirect{Peer: "p", Datacenter: "dc2"}}), `Redirect.Datacenter: Redirect.Peer cannot be set with Redirect.Datacenter`},
		{resolver("a", chain.Resolver{Redirect: &chain.Redirect{Peer: "p", Subset: "v1"}}), `Redirect.ServiceSubset: Redirect.Peer cannot be set with Redirect.ServiceSubset`},
		{failing("v9", chain.Failover{Service: "b"}), `Failover.v9: Bad Failover["v9"]: not a valid subset subset`},
		{failing("v1", chain.Failover{Service: "b", Subset: "any"}), ""},
		{failing("*", chain.Failover{}), `Failover.*: Bad Failover["*"]: one of Service, ServiceSubset, Namespace, Targets, SamenessGroup, or Datacenters is required`},
		{failing("*", chain.Failover{Subset: "v9"}), `Failover.*.ServiceSubset: Bad Failover["*"]: ServiceSubset "v9" is not a valid subset of ""`},
		{failing("*", chain.Failover{Datacenters: []string{"dc2", ""}}), `Failover.*.Datacenters[1]: Bad Failover["*"].Datacenters: found empty datacenter`},
		{failing("*", chain.Failover{Service: "b", Targets: []chain.FailoverTarget{{}}}), `Failover.*.Targets: Bad Failover["*"]: Targets cannot be set with Service`},
		{failing("*", chain.Failover{Subset: "v1", Targets: []chain.FailoverTarget{{}}}), `Failover.*.Targets: Bad Failover["*"]: Targets cannot be set with ServiceSubset`},
		{failing("*", chain.Failover{Datacenters: []string{"dc2"}, Targets: []chain.FailoverTarget{{}}}), `Failover.*.Targets: Bad Failover["*"]: Targets cannot be set with Datacenters`},
		{failing("*", chain.Failover{Targets: []chain.FailoverTarget{{}, {Subset: "v9"}}}), `Failover.*.Targets[1].ServiceSubset: Bad Failover["*"].Targets[1]: ServiceSubset "v9" is not a valid subset of "a"`},
		{failing("*", chain.Failover{Targets: []chain.FailoverTarget{{Peer: "p", Subset: "v1"}}}), `Failover.*.Targets[0]: Bad Failover["*"].Targets[0]: Peer cannot be set with ServiceSubset`},
		{failing("*", chain.Failover{Targets: []chain.FailoverTarget{{Peer: "p", Datacenter: "dc2"}}}), `Failover.*.Targets[0]: Bad Failover["*"].Targets[0]: Peer cannot be set with Datacenter`},
		{resolver("a", chain.Resolver{ConnectTimeout: -time.Second, RequestTimeout: -1}), `ConnectTimeout: Bad ConnectTimeout '-1s', must be >= 0
RequestTimeout: Bad RequestTimeout '-1ns', must be >= 0`},

		{balanced(chain.LoadBalancer{}), ""},
		{balanced(chain.LoadBalancer{Policy: "fastest"}), `LoadBalancer.Policy: Bad LoadBalancer policy: "fastest" is not supported`},
		{balanced(chain.LoadBalancer{RingHash: &chain.RingHash{}}), `LoadBalancer.RingHashConfig: Bad LoadBalancer configuration. RingHashConfig specified for incompatible load balancing policy ""`},
		{balanced(chain.LoadBalancer{Policy: "random", LeastRequest: &chain.LeastRequest{}}), `LoadBalancer.LeastRequestConfig: Bad LoadBalancer configuration. LeastRequestConfig specified for incompatible load balancing policy "random"`},
		{balanced(chain.LoadBalancer{Policy: "random", HashPolicies: []chain.HashPolicy{{SourceIP: true}}}), `LoadBalancer.HashPolicies: Bad LoadBalancer configuration: HashPolicies specified for non-hash-based Policy: "random"`},
		{hashing(chain.HashPolicy{SourceIP: true}, chain.HashPolicy{Field: "method", FieldValue: "x"}), `LoadBalancer.HashPolicies[1]: Bad LoadBalancer HashPolicy[1]: "method" is not a supported field`},
		{hashing(chain.HashPolicy{SourceIP: true, Field: "header"}), `LoadBalancer.HashPolicies[0]: Bad LoadBalancer HashPolicy[0]: A single hash policy cannot hash both a source address and a "header"`},
		{hashing(chain.HashPolicy{SourceIP: true, FieldValue: "x"}), `LoadBalancer.HashPolicies[0]: Bad LoadBalancer HashPolicy[0]: A FieldValue cannot be specified when hashing SourceIP`},
		{hashing(chain.HashPolicy{Field: "header"}), `LoadBalancer.HashPolicies[0]: Bad LoadBalancer HashPolicy[0]: Field "header" was specified without a FieldValue`},
		{hashing(chain.HashPolicy{FieldValue: "x"}), `LoadBalancer.HashPolicies[0]: Bad LoadBalancer HashPolicy[0]: FieldValue requires a Field to apply to`},
		{hashing(chain.HashPolicy{Field: "header", FieldValue: "x", Cookie: &chain.CookieConfig{}}), `LoadBalancer.HashPolicies[0]: Bad LoadBalancer HashPolicy[0]: cookie_config provided for "header"`},
		{hashing(chain.HashPolicy{Field: "cookie", FieldValue: "x", Cookie: &chain.CookieConfig{Session: true, TTL: 1}}), `LoadBalancer.HashPolicies[0]: Bad LoadBalancer HashPolicy[0]: a session cookie cannot have an associated TTL`},
	} {
		var got []string
		for _, m := range checked(c.entry) {
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
