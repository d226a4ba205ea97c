package files_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/files"
)

// TestValidateWarnsOfChains: what leads to nobody, and what does not do what it looks like.
func TestValidateWarnsOfChains(t *testing.T) {
	t.Parallel()
	const balanced = "LoadBalancer {\nPolicy = \"ring_hash\"\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"nothing": {files: map[string]string{
			"r.hcl": entry("service-router", "api", "Routes = [{ Match { HTTP { PathPrefix = \"/v2\" } } Destination { Service = \"canary\" } }, {}]"),
			"s.hcl": entry("service-splitter", "api", "Splits = [{ Weight = 99.99 }, { Weight = 0.01 Service = \"canary\" }]"),
			"o.hcl": entry("service-resolver", "api", "Failover { \"*\" { Service = \"canary\" } }\n"+balanced+"HashPolicies = [{ Field = \"cookie\" FieldValue = \"a\" CookieConfig { Session = true } }, { Field = \"header\" FieldValue = \"b\" }]\n}"),
		}},
		"services that nobody registers": {
			files: map[string]string{
				"r.hcl": entry("service-resolver", "apo", ""), "s.hcl": entry("service-resolver", "alias", "Redirect { Service = \"api\" }"),
				"d.hcl": entry("proxy-defaults", "global", `Config { protocol = "http" }`), "t.hcl": entry("service-splitter", "spread", "Splits = [{ Weight = 50 Service = \"api\" }, { Weight = 50 Service = \"canary\" }]"),
			},
			want: []string{"r.hcl:1: service-resolver of apo: no service apo is defined here: did you mean api?"},
		},
		"routes and splits to nobody": {
			files: map[string]string{
				"d.hcl": entry("proxy-defaults", "global", `Config { protocol = "http" }`),
				"r.hcl": entry("service-router", "api", "Routes = [\n{ Match { HTTP { PathPrefix = \"/v2\" } }\nDestination { Service = \"none\" } },\n{},\n{ Destination { Service = \"other\" } }\n]"),
				"s.hcl": entry("service-splitter", "api", "Splits = [\n{ Weight = 49 },\n{ Weight = 51 Service = \"none\" },\n{ Weight = 0 Service = \"never\" } ]"),
			},
			want: []string{
				"r.hcl:5: the route leads to none, which has no instance that can be dialled", "r.hcl:6: this route matches every request, so none of those below it ever does",
				"s.hcl:5: the split leads to none, which has no instance that can be dialled",
			},
		},
		"redirects and failovers to nobody": {
			files: map[string]string{
				"r.hcl": entry("service-resolver", "api", "ConnectTimeout = \"1s\"\nRedirect {\nService = \"none\"\n}"), "d.hcl": "# nothing\n",
				"s.hcl": entry("service-resolver", "canary", "Failover {\n\"*\" {\nTargets = [\n{ Service = \"web\" },\n{ Service = \"none\" },\n{ Service = \"api\" }]\n}\n}"),
			},
			want: []string{
				"web.hcl:6: upstream api: its chain (r.hcl:1) leads to no service that has a proxy here, or is native, so nothing answers",
				"r.hcl:4: beside this Redirect nothing else of the resolver counts: timeouts, the balancer and subsets are those of none",
				"r.hcl:4: the redirect leads to none, which has no instance that can be dialled",
				"s.hcl:7: the failover leads to none, which has no instance that can be dialled",
				"s.hcl:8: the failover leads to none, which has no instance that can be dialled",
			},
		},
		"what is not sticky": {
			files: map[string]string{"r.hcl": entry("service-resolver", "api", balanced+"HashPolicies = [\n{ Field = \"cookie\" FieldValue = \"a\" },\n{ SourceIP = true }]\n}"), "s.hcl": entry("service-resolver", "canary", balanced+"}")},
			want: []string{
				"r.hcl:6: a cookie a without CookieConfig { TTL } or { Session } is set by nobody but the application: until it does, instances are chosen at random",
				"r.hcl:7: SourceIP hashes the address of the application behind the sidecar that dials: all that it asks goes to one instance",
				"s.hcl:4: ring_hash without HashPolicies hashes nothing: instances are chosen at random",
			},
		},
		"filters that match nothing": {
			files: map[string]string{
				"r.hcl":   entry("service-resolver", "api", "Subsets {\nv1 {\nFilter = \"Service.Meta.version == 1\"\n}\nv2 {\nFilter = \"Service.Meta.version == 2\"\n}\n}"),
				"api.hcl": withSidecar("api", "8081", "meta { version = \"1\" }"), "s.hcl": entry("service-splitter", "api", "Splits = [\n{ Weight = 99 ServiceSubset = \"v1\" },\n{ Weight = 1 ServiceSubset = \"v2\" } ]"),
			},
			want: []string{"r.hcl:8: the filter of subset v2 matches none of the 1 instances of api", "s.hcl:5: the split leads to the subset v2 of api, which has no instance that can be dialled"},
		},
		"hashes of tcp": {
			files: map[string]string{"d.hcl": "# nothing\n", "r.hcl": entry("service-resolver", "api", balanced+"HashPolicies = [{ SourceIP = true }]\n}")},
			want:  []string{"r.hcl:5: HashPolicies have no meaning for api, which is tcp: there is nothing in it that could be hashed"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			config := files.Config{Dir: write(t, chained(c.files)), TrustDomain: trustDomain, Warned: func(p files.Problem) { got = append(got, p.String()) }}
			if _, err := files.Validate(config); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}
