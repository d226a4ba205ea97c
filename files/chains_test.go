package files_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
)

// chained is a mesh in which web dials api, and canary is beside that, all of http.
func chained(more map[string]string) map[string]string {
	all := map[string]string{
		"web.hcl": inUpstream(""), "api.hcl": withSidecar("api", "8081", ""), "canary.hcl": withSidecar("canary", "8082", ""),
		"d.hcl": "config_entries { bootstrap = [\n{ Kind = \"service-defaults\" Name = \"api\" Protocol = \"http\" },\n{ Kind = \"service-defaults\" Name = \"canary\" Protocol = \"http\" } ] }\n",
	}
	maps.Copy(all, more)
	return all
}

// TestChainMistakes: what is wrong among entries is said in Consul's words, at the line of what is to be mended.
func TestChainMistakes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"a router of tcp": {
			chained(map[string]string{"d.hcl": entry("service-defaults", "api", `Protocol = "tcp"`), "r.hcl": entry("service-router", "api", "")}),
			[]string{`r.hcl:1: discovery chain "api" uses a protocol "tcp" that does not permit advanced routing or splitting behavior`},
		},
		"a splitter of nobody's protocol": {
			chained(map[string]string{"s.hcl": entry("service-splitter", "db", "Splits = [{ Weight = 100 }]")}),
			[]string{`s.hcl:1: discovery chain "db" uses a protocol "tcp" that does not permit advanced routing or splitting behavior`},
		},
		"proxy-defaults of a router's service": {
			map[string]string{"p.hcl": entry("proxy-defaults", "global", `Config { protocol = "tcp" }`), "r.hcl": entry("service-router", "api", "")},
			[]string{`r.hcl:1: discovery chain "api" uses a protocol "tcp" that does not permit advanced routing or splitting behavior`},
		},
		"another protocol behind a route": {
			chained(map[string]string{"r.hcl": entry("service-router", "api", "Routes = [\n{},\n{\nDestination {\nService = \"db\"\n}\n}]")}),
			[]string{`r.hcl:6: discovery chain "api" uses inconsistent protocols; service "db" has "tcp" which is not "http"`},
		},
		"another protocol behind a split": {
			chained(map[string]string{"s.hcl": entry("service-splitter", "api", "Splits = [\n{ Weight = 50 },\n{ Weight = 50 Service = \"db\" }]")}),
			[]string{`s.hcl:5: discovery chain "api" uses inconsistent protocols; service "db" has "tcp" which is not "http"`},
		},
		"another protocol of a redirect": {
			chained(map[string]string{"r.hcl": entry("service-resolver", "api", "Redirect {\nService = \"db\"\n}")}),
			[]string{`r.hcl:3: discovery chain "api" uses inconsistent protocols; service "db" has "tcp" which is not "http"`},
		},
		"no such subset": {
			chained(map[string]string{"s.hcl": entry("service-splitter", "api", "Splits = [\n{ Weight = 50 },\n{ Weight = 50 Service = \"canary\" ServiceSubset = \"v9\" }]")}),
			[]string{`s.hcl:5: service "canary" does not have a subset named "v9"`},
		},
		"redirects in a circle": {
			chained(map[string]string{"a.hcl": entry("service-resolver", "api", "Redirect { Service = \"canary\" }"), "b.hcl": entry("service-resolver", "canary", "Redirect { Service = \"api\" }")}),
			[]string{
				`a.hcl:3: detected circular resolver redirect: [canary.default.default.dc1 -> api.default.default.dc1 -> canary.default.default.dc1]`,
				`b.hcl:3: detected circular resolver redirect: [api.default.default.dc1 -> canary.default.default.dc1 -> api.default.default.dc1]`,
			},
		},
		"routes": {
			chained(map[string]string{"r.hcl": entry("service-router", "api", "Routes = [\n{ Match { HTTP {\nPathExact = \"x\"\n} } },\n{ Match { HTTP {\nMethods = [\n\"GET\",\n\"FETCH\"]\nHeader = [\n{ Name = \"a\" Exact = \"1\" },\n{ Name = \"b\" }\n]\n} } },\n{ Destination {\nPrefixRewrite = \"/\" } }\n]")}),
			[]string{
				`r.hcl:5: Route[0] PathExact doesn't start with '/': "x"`, `r.hcl:10: Route[1] Methods contains an invalid method "FETCH"`,
				`r.hcl:13: Route[1] Header[1] should only contain one of Present, Exact, Prefix, Suffix, or Regex`,
				`r.hcl:17: Route[2] cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix`,
			},
		},
		"splits": {
			chained(map[string]string{"s.yaml": "Kind: service-splitter\nName: api\nSplits:\n  - Weight: 99.989\n  - Weight: 0\n"}),
			[]string{`s.yaml:3: the sum of all split weights must be 100, not 99.989998`, `s.yaml:5: split destination occurs more than once: service="api", subset="", namespace="", partition=""`},
		},
		"no splits": {chained(map[string]string{"s.hcl": entry("service-splitter", "api", "")}), []string{`s.hcl:1: no splits configured`}},
		"a resolver": {
			chained(map[string]string{"r.json": "{\"Kind\": \"service-resolver\", \"Name\": \"api\", \"Subsets\": {\n\"V1\": {},\n\"v2\": {\n\"Filter\": \"Service.Meta = 1\"}},\n\"DefaultSubset\": \"v9\",\n\"Failover\": {\"*\": {\n\"Targets\": [\n{\"ServiceSubset\": \"v8\"}]}},\n\"LoadBalancer\": {\n\"HashPolicies\": [{}]}}"}),
			[]string{
				`r.json:2: Subset "V1" is invalid: must be 63 characters or fewer, begin or end with lower case alphanumeric characters, and contain lower case alphanumeric characters or '-' in between`,
				`r.json:4: Filter for subset "v2" is not a valid expression: 1:14 (13): no match found, expected: "!=", "==", "contains", "in", "is", "matches", "not" or [ \t\r\n]`,
				`r.json:5: DefaultSubset "v9" is not a valid subset`,
				`r.json:8: Bad Failover["*"].Targets[0]: ServiceSubset "v8" is not a valid subset of "api"`,
				`r.json:10: Bad LoadBalancer configuration: HashPolicies specified for non-hash-based Policy: ""`,
				`r.json:10: LoadBalancer HashPolicy[0]: it says nothing to hash: give Field and FieldValue, or SourceIP`,
			},
		},
		"a filter of what is not there": {
			chained(map[string]string{"r.hcl": entry("service-resolver", "api", "Subsets { v1 {\nFilter = \"Service.Metta.version == 1\"\n} }")}),
			[]string{`r.hcl:4: Filter for subset "v1" is not a valid expression: Selector "Service.Metta" is not valid`},
		},
		"a redirect elsewhere, and nothing that follows from it": {
			chained(map[string]string{"r.hcl": entry("service-resolver", "api", "Redirect {\nDatacenter = \"dc7\"\n}")}),
			[]string{`r.hcl:4: Datacenter "dc7" is not this one (dc1): files know the services of no other; beside Consul they can be reached`},
		},
		"what Envoy refuses": {
			chained(map[string]string{
				"r.hcl": entry("service-router", "api", "Routes = [\n{ Match { HTTP {\nPathRegex = \"/(a\"\n} } },\n{ Match { HTTP { PathPrefix = \"/\" } } Destination { RequestHeaders {\nSet {\nx-load = \"50 % of it\"\n} } } }\n]"),
				"s.hcl": entry("service-splitter", "canary", "Splits = [\n{ Weight = 101 },\n{\nWeight = \"-1\"\nServiceSubset = \"x\" }]"),
				"t.hcl": entry("service-resolver", "canary", "Subsets { x {} }\nLoadBalancer {\nPolicy = \"least_request\"\nLeastRequestConfig { ChoiceCount = 1 }\n}"),
			}),
			[]string{
				"r.hcl:5: Route[0] PathRegex: not a regular expression of RE2's: error parsing regexp: missing closing ): `/(a`",
				`r.hcl:9: Route[1] RequestHeaders.Set of "x-load": a lone % in "50 % of it": write %% for one, or %COMMAND%`,
				`s.hcl:4: Split[0] has a Weight of 101: it must be 0 to 100`, `s.hcl:6: Split[1] has a Weight of -1: it must be 0 to 100`,
				`t.hcl:6: LeastRequestConfig: ChoiceCount is 1: it must be 2 or more`,
			},
		},
		"twice": {
			chained(map[string]string{"a.hcl": entry("service-resolver", "api", ""), "b.hcl": entry("service-resolver", "API", "")}),
			[]string{`b.hcl:1: the service-resolver of API is given twice (first at a.hcl:1)`},
		},
		"a server name that is too long": {
			chained(map[string]string{
				"web.hcl": strings.ReplaceAll(inUpstream(""), "\"api\"", "\""+strings.Repeat("x", 210)+"\""), "api.hcl": withSidecar(strings.Repeat("x", 210), "8081", ""),
				"r.hcl": entry("service-resolver", strings.Repeat("x", 210), "DefaultSubset = \"a-subset-with-a-long-name\"\nSubsets { a-subset-with-a-long-name {} }"),
			}),
			[]string{`r.hcl:1: the chain of ` + strings.Repeat("x", 210) + ` leads to a server name "a-subset-with-a-long-name.xxxxxxxxxxxxxx"... of 267 bytes, and TLS takes 255: shorten the names of the service or of the subset`},
		},
		"no name":         {map[string]string{"r.hcl": "Kind = \"service-router\"\n"}, []string{"r.hcl:1: service-router has no Name"}},
		"a wildcard":      {map[string]string{"r.hcl": entry("service-splitter", "*", "")}, []string{`r.hcl:2: Name "*": a wildcard cannot be used here`}},
		"a namespace":     {map[string]string{"r.hcl": entry("service-resolver", "api", `Namespace = "prod"`)}, []string{`r.hcl:3: Namespace "prod" in service-resolver is not supported yet`}},
		"misspelt":        {map[string]string{"r.hcl": entry("service-resolver", "api", `DefaultSubsets = "v1"`)}, []string{`r.hcl:3: unknown key "DefaultSubsets" in service-resolver: did you mean DefaultSubset?`}},
		"misspelt kind":   {map[string]string{"r.hcl": entry("service-spliter", "api", "")}, []string{`r.hcl:1: unknown kind "service-spliter": did you mean service-splitter?`}},
		"of Kubernetes":   {map[string]string{"r.yaml": "apiVersion: consul.hashicorp.com/v1alpha1\nkind: ServiceRouter\nmetadata:\n  name: api\n"}, []string{`r.yaml:1: a Kubernetes resource (ServiceRouter): write it as Consul's API has it: Kind "service-router", Name "api", and what is under spec beside them`}},
		"another country": {map[string]string{"r.hcl": entry("service-resolver", "api", "Redirect {\nDatacenter = \"dc2\"\n}")}, []string{`r.hcl:4: Datacenter "dc2" is not this one (dc1): files know the services of no other; beside Consul they can be reached`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := files.Load(files.Config{Dir: write(t, c.files), TrustDomain: trustDomain})
			if err == nil {
				t.Fatalf("Load took it, want %q", c.want)
			}
			if diff := cmp.Diff(c.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// TestChains: chains are there for those who dial, in the protocol of their service, and not where nobody dials or no entry says anything.
func TestChains(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  []string // services with their targets
	}{
		"no entry":                    {chained(nil), nil},
		"an entry that says nothing":  {chained(map[string]string{"r.hcl": entry("service-resolver", "api", "")}), nil},
		"an entry of nobody's":        {chained(map[string]string{"r.hcl": entry("service-router", "canary", "")}), nil},
		"a timeout":                   {chained(map[string]string{"r.hcl": entry("service-resolver", "api", `ConnectTimeout = "1s"`)}), []string{"api http: api.default.default.dc1"}},
		"a redirect":                  {chained(map[string]string{"r.hcl": entry("service-resolver", "api", "Redirect { Service = \"canary\" }")}), []string{"api http: canary.default.default.dc1"}},
		"letter case does not count":  {chained(map[string]string{"r.hcl": entry("service-resolver", "API", "Redirect { Service = \"canary\" }")}), []string{"api http: canary.default.default.dc1"}},
		"a service that is not there": {chained(map[string]string{"d.hcl": entry("proxy-defaults", "global", `Config { protocol = "grpc" }`), "s.hcl": entry("service-splitter", "api", "Splits = [{ Weight = 0.5 }, { Weight = 99.5 Service = \"none\" }]")}), []string{"api grpc: api.default.default.dc1 none.default.default.dc1"}},
		"filters": {
			chained(map[string]string{
				"api.hcl": "services = [\n" + instance("a1", "1", `tags = ["blue"]`) + ",\n" + instance("a2", "2", "weights { passing = 7 }\ncheck { status = \"warning\" }") + ",\n" + instance("a3", "2", "") + "\n]",
				"r.yaml": "Kind: service-resolver\nName: api\nDefaultSubset: v2\nSubsets:\n  v1: {Filter: 'Service.Meta.version == 1 and \"blue\" in Service.Tags'}\n  v2: {Filter: 'Service.Meta.version == 2', OnlyPassing: true}\n" +
					"  well: {Filter: 'Checks.Status != passing'}\n  one: {Filter: 'Service.ID == \"a3-sidecar-proxy\" and Service.Port == 20003 and Service.Address == \"10.0.0.3\"'}\n  none: {Filter: 'Node.Meta.zone == a'}\n",
				"s.yaml": "Kind: service-splitter\nName: api\nSplits:\n  - {Weight: 20, ServiceSubset: v1}\n  - {Weight: 20}\n  - {Weight: 20, ServiceSubset: one}\n  - {Weight: 20, ServiceSubset: none}\n  - {Weight: 20, ServiceSubset: well}\n",
			}),
			[]string{
				"api http: none.api.default.default.dc1 one.api.default.default.dc1 v1.api.default.default.dc1 v2.api.default.default.dc1 well.api.default.default.dc1",
				"none of api: []", "one of api: [{10.0.0.3 20003 1 true}]", "v1 of api: [{10.0.0.1 20001 1 true}]", "v2 of api: [{10.0.0.2 20002 1 false} {10.0.0.3 20003 1 true}]",
				"well of api: [{10.0.0.2 20002 1 true}]",
			},
		},
		"a subset": {
			chained(map[string]string{"r.hcl": entry("service-resolver", "api", "DefaultSubset = \"v2\"\nSubsets { v1 {} v2 { OnlyPassing = true } }\nFailover { v2 { Service = \"canary\" } }"), "api.hcl": withSidecar("api", "8081", "check { status = \"warning\" }")}),
			[]string{"api http: canary.default.default.dc1 v2.api.default.default.dc1", "v2 of api: [{127.0.0.1 21000 1 false}]"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			contents := load(t, files.Config{Dir: write(t, c.files)})
			if diff := cmp.Diff(c.want, told(contents)); diff != "" {
				t.Errorf("chains (-want +got):\n%s\n%s", diff, dump(contents))
			}
		})
	}
}

// instance is one of api with its sidecar, of a version.
func instance(id, version, more string) string {
	n := id[1:]
	return "{\nid = \"" + id + "\"\nname = \"api\"\naddress = \"10.0.0." + n + "\"\nport = 8080\nmeta { version = \"" + version + "\" }\n" + more +
		"\nconnect {\nsidecar_service { port = 2000" + n + " }\n}\n}"
}

// told are the chains, each with its targets, and the endpoints of subsets.
func told(c catalog.Contents) (list []string) {
	for _, chain := range c.Chains {
		list = append(list, chain.Service.Service+" "+chain.Protocol+": "+strings.Join(slices.Sorted(maps.Keys(chain.Targets)), " "))
	}
	for _, e := range c.Endpoints {
		if e.Subset != "" {
			list = append(list, fmt.Sprintf("%s of %s: %v", e.Subset, e.Name.Service, e.List))
		}
	}
	return list
}
