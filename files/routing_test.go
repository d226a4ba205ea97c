package files_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/files"
)

// TestRoutingEntriesTold: what Consul 1.19.2's API tells of the entries that chains are made of, as it was seen there, is what is told of them here,
// whatever the format and the spelling of keys that they are written in.
func TestRoutingEntriesTold(t *testing.T) {
	t.Parallel()
	defaults := entry("service-defaults", "api", `Protocol = "http"`)
	for name, c := range map[string]struct{ file, text, kind, want string }{
		"router": {
			"r.json", `{"Kind":"service-router","Name":"api","Routes":[{"Match":{"HTTP":{"PathPrefix":"/v1","CaseInsensitive":true,"Methods":["get","PUT"],` +
				`"Header":[{"Name":"a","Present":true,"Invert":true},{"Name":"b","Exact":"1"}],"QueryParam":[{"Name":"a","Present":true},{"Name":"b","Exact":"1"}]}},` +
				`"Destination":{"Service":"other","PrefixRewrite":"/","RequestTimeout":"-1ns","IdleTimeout":"1.5s","NumRetries":3,"RetryOnConnectFailure":true,` +
				`"RetryOn":["reset","5xx"],"RetryOnStatusCodes":[503,429],"RequestHeaders":{"Add":{"x-A":"1"}},"ResponseHeaders":{}}},` +
				`{"Match":{"HTTP":{"PathExact":"/x"}},"Destination":{"NumRetries":0,"RequestTimeout":"0s"}},{"Match":{"HTTP":{"PathRegex":"/.*"}},"Destination":{}},{"Match":{}},{}]}`,
			"service-router", `{"Routes":[{"Match":{"HTTP":{"PathPrefix":"/v1","CaseInsensitive":true,"Header":[{"Name":"a","Present":true,"Invert":true},{"Name":"b","Exact":"1"}],` +
				`"QueryParam":[{"Name":"a","Present":true},{"Name":"b","Exact":"1"}],"Methods":["GET","PUT"]}},` +
				`"Destination":{"RequestTimeout":"-1ns","IdleTimeout":"1.5s","Service":"other","PrefixRewrite":"/","NumRetries":3,"RetryOnConnectFailure":true,` +
				`"RetryOn":["reset","5xx"],"RetryOnStatusCodes":[503,429],"RequestHeaders":{"Add":{"x-A":"1"}},"ResponseHeaders":{}}},` +
				`{"Match":{"HTTP":{"PathExact":"/x"}},"Destination":{}},{"Match":{"HTTP":{"PathRegex":"/.*"}},"Destination":{}},{"Match":{}},{}]}`,
		},
		"router, HCL": {
			"r.hcl", "kind = \"service-router\"\nname = \"api\"\nroutes {\n  match { http { path_prefix = \"/v1\" methods = [\"get\"] } }\n  destination { prefix_rewrite = \"/\" num_retries = \"3\" idle_timeout = 1500000000 }\n}\nroutes { match { http { path_exact = \"/x\" } } }\n",
			"service-router", `{"Routes":[{"Match":{"HTTP":{"PathPrefix":"/v1","Methods":["GET"]}},"Destination":{"IdleTimeout":"1.5s","PrefixRewrite":"/","NumRetries":3}},{"Match":{"HTTP":{"PathExact":"/x"}}}]}`,
		},
		"router of nothing": {"r.yaml", "Kind: service-router\nName: api\n", "service-router", `{"Routes":null}`},
		"splitter": {
			"s.json", `{"Kind":"service-splitter","Name":"api","Splits":[{"Weight":99.5,"RequestHeaders":{"Add":{"x-A":"1"},"Set":{"x-b":"%START_TIME%"},"Remove":["x-c"]}},{"Weight":0.5,"Service":"other"},{"Weight":0,"Service":"third"}]}`,
			"service-splitter", `{"Splits":[{"Weight":99.5,"RequestHeaders":{"Add":{"x-A":"1"},"Set":{"x-b":"%START_TIME%"},"Remove":["x-c"]}},{"Weight":0.5,"Service":"other"},{"Weight":0,"Service":"third"}]}`,
		},
		"splitter, YAML": {
			"s.yaml", "kind: service-splitter\nname: api\nsplits:\n  - weight: 99.5\n    response_headers: {add: {x-A: '1'}}\n  - weight: 0.5\n    service: other\n  - service: third\n",
			"service-splitter", `{"Splits":[{"Weight":99.5,"ResponseHeaders":{"Add":{"x-A":"1"}}},{"Weight":0.5,"Service":"other"},{"Weight":0,"Service":"third"}]}`,
		},
		"resolver": {
			"r.json", `{"Kind":"service-resolver","Name":"api","DefaultSubset":"v1","ConnectTimeout":"5s","RequestTimeout":"60s","Subsets":{"v1":{"Filter":"Service.Meta.version == 1"},"v2":{"OnlyPassing":true},"v3":{}},` +
				`"Failover":{"*":{"Service":"other","Datacenters":["dc1"]},"v1":{"Targets":[{"Service":"other"},{"ServiceSubset":"v2","Datacenter":"dc1"}]}},` +
				`"LoadBalancer":{"Policy":"ring_hash","RingHashConfig":{"MinimumRingSize":1024},"HashPolicies":[{"Field":"cookie","FieldValue":"id","Terminal":true,"CookieConfig":{"TTL":"60s","Path":"/x"}},` +
				`{"Field":"header","FieldValue":"x-User"},{"SourceIP":true}]}}`,
			"service-resolver", `{"ConnectTimeout":"5s","RequestTimeout":"1m0s","DefaultSubset":"v1","Subsets":{"v1":{"Filter":"Service.Meta.version == 1"},"v2":{"OnlyPassing":true},"v3":{}},` +
				`"Failover":{"*":{"Service":"other","Datacenters":["dc1"]},"v1":{"Targets":[{"Service":"other"},{"ServiceSubset":"v2","Datacenter":"dc1"}]}},` +
				`"LoadBalancer":{"Policy":"ring_hash","RingHashConfig":{"MinimumRingSize":1024},"HashPolicies":[{"Field":"cookie","FieldValue":"id","CookieConfig":{"TTL":60000000000,"Path":"/x"},"Terminal":true},` +
				`{"Field":"header","FieldValue":"x-User"},{"SourceIP":true}]}}`,
		},
		"resolver, HCL": {
			"r.hcl", "Kind = \"service-resolver\"\nName = \"api\"\nSubsets = {\n  v1 = { Filter = \"Service.Meta.version == 1\" }\n  v3 {}\n}\nRedirect { Service = \"other\" }\nLoadBalancer { Policy = \"least_request\" LeastRequestConfig { ChoiceCount = 5 } }\n",
			"service-resolver", `{"Subsets":{"v1":{"Filter":"Service.Meta.version == 1"},"v3":{}},"Redirect":{"Service":"other"},"LoadBalancer":{"Policy":"least_request","LeastRequestConfig":{"ChoiceCount":5}}}`,
		},
		"resolver that says nothing": {"r.yaml", "Kind: service-resolver\nName: api\nSubsets: {}\nLoadBalancer: {}\n", "service-resolver", `{"LoadBalancer":{}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			contents := load(t, files.Config{Dir: write(t, map[string]string{
				c.file: c.text, "d.hcl": defaults, "o.hcl": entry("service-defaults", "other", `Protocol = "http"`), "p.hcl": entry("service-defaults", "third", `Protocol = "http"`),
			})})
			var got []string
			for _, e := range contents.Entries {
				if e.Kind != "service-defaults" {
					got = append(got, e.Kind+" "+e.Name+" "+e.Origin, normalised(t, e.Fields))
				}
			}
			if diff := cmp.Diff([]string{c.kind + " api " + c.file + ":1", normalised(t, c.want)}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func normalised(t *testing.T, object string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(object), &v); err != nil {
		t.Fatalf("%s: %v", object, err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
