package definition_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/definition"
)

// Every field of the entries that chains are made of, in both spellings of keys.
func TestChainEntries(t *testing.T) {
	headers := &chain.HeaderModifiers{Add: map[string]string{"x-A": "1"}, Set: map[string]string{"x-b": "%START_TIME%"}, Remove: []string{"x-c"}}
	router := &chain.Router{Origin: "f:1", Routes: []chain.Route{
		{Origin: "f:1", Match: &chain.HTTPMatch{
			PathPrefix: "/v1", CaseInsensitive: true, Methods: []string{"GET", "PUT"},
			Header: []chain.HeaderMatch{
				{Name: "a", Present: true, Invert: true},
				{Name: "b", Exact: "1", IgnoreCase: true},
				{Name: "c", Prefix: "1"},
				{Name: "d", Suffix: "1"},
				{Name: "e", Contains: "1"},
				{Name: "f", Regex: "1"},
			},
			QueryParam: []chain.QueryMatch{{Name: "a", Present: true}, {Name: "b", Exact: "1"}, {Name: "c", Regex: "1"}},
		}, Destination: &chain.Destination{
			Service: "other", Subset: "v1", PrefixRewrite: "/", RequestTimeout: -time.Nanosecond, IdleTimeout: 1500 * time.Millisecond, NumRetries: 3,
			RetryOnConnectFailure: true, RetryOn: []string{"reset", "5xx"}, RetryOnStatusCodes: []uint32{503, 429}, RequestHeaders: headers, ResponseHeaders: headers,
		}},
		{Origin: "f:1", Match: &chain.HTTPMatch{PathExact: "/x"}},
		{Origin: "f:1", Match: &chain.HTTPMatch{PathRegex: "/.*"}, Destination: &chain.Destination{}},
		{Origin: "f:1"},
	}}
	splitter := &chain.Splitter{Origin: "f:1", Splits: []chain.Split{
		{Weight: 99.5, Subset: "v1", RequestHeaders: headers, ResponseHeaders: headers}, {Weight: 0.5, Service: "other"}, {},
	}}
	resolver := &chain.Resolver{
		Origin: "f:1", DefaultSubset: "v1", ConnectTimeout: 5 * time.Second, RequestTimeout: time.Minute,
		Subsets:  map[string]chain.Subset{"v1": {Filter: "Service.Meta.version == 1"}, "v2": {OnlyPassing: true}},
		Redirect: &chain.Redirect{Service: "other", Subset: "v3", Datacenter: "dc1"},
		Failover: map[string]chain.Failover{
			"*":  {Service: "other", Subset: "v1", Datacenters: []string{"dc1"}},
			"v1": {Targets: []chain.FailoverTarget{{Service: "a"}, {Subset: "v2", Datacenter: "dc1"}}},
		},
		LoadBalancer: &chain.LoadBalancer{
			Policy: "ring_hash", RingHash: &chain.RingHash{MinimumRingSize: 1024, MaximumRingSize: 8388608}, LeastRequest: &chain.LeastRequest{ChoiceCount: 5},
			HashPolicies: []chain.HashPolicy{
				{Field: "cookie", FieldValue: "id", Terminal: true, Cookie: &chain.CookieConfig{TTL: time.Minute, Path: "/x"}},
				{Field: "header", FieldValue: "x-User", Cookie: &chain.CookieConfig{Session: true}},
				{SourceIP: true},
			},
		},
	}
	for name, c := range map[string]struct {
		text string
		read func(*definition.Decoder) any
		want any
	}{
		"router": {`{"Routes": [
{"Match": {"HTTP": {"PathPrefix": "/v1", "CaseInsensitive": true, "Methods": ["get", "PUT"],
 "Header": [{"Name": "a", "Present": true, "Invert": true}, {"Name": "b", "Exact": "1", "IgnoreCase": true}, {"Name": "c", "Prefix": "1"}, {"Name": "d", "Suffix": "1"}, {"Name": "e", "Contains": "1"}, {"Name": "f", "Regex": "1"}],
 "QueryParam": [{"Name": "a", "Present": true}, {"Name": "b", "Exact": "1"}, {"Name": "c", "Regex": "1"}]}},
 "Destination": {"Service": "other", "ServiceSubset": "v1", "Namespace": "default", "Partition": "", "PrefixRewrite": "/", "RequestTimeout": "-1ns", "IdleTimeout": "1.5s", "NumRetries": 3,
  "RetryOnConnectFailure": true, "RetryOn": ["reset", "5xx"], "RetryOnStatusCodes": [503, 429],
  "RequestHeaders": {"Add": {"x-A": "1"}, "Set": {"x-b": "%START_TIME%"}, "Remove": ["x-c"]}, "ResponseHeaders": {"Add": {"x-A": "1"}, "Set": {"x-b": "%START_TIME%"}, "Remove": ["x-c"]}}},
{"Match": {"HTTP": {"PathExact": "/x"}}}, {"Match": {"HTTP": {"PathRegex": "/.*"}}, "Destination": {"RequestHeaders": {"Add": {}}}}, {"Match": {}, "Destination": null}]}`, routerOf, router},
		"router, snake": {`{"routes": [
{"match": {"http": {"path_prefix": "/v1", "case_insensitive": true, "methods": ["get", "PUT"],
 "header": [{"name": "a", "present": true, "invert": true}, {"name": "b", "exact": "1", "ignore_case": true}, {"name": "c", "prefix": "1"}, {"name": "d", "suffix": "1"}, {"name": "e", "contains": "1"}, {"name": "f", "regex": "1"}],
 "query_param": [{"name": "a", "present": true}, {"name": "b", "exact": "1"}, {"name": "c", "regex": "1"}]}},
 "destination": {"service": "other", "service_subset": "v1", "prefix_rewrite": "/", "request_timeout": "-1ns", "idle_timeout": 1500000000, "num_retries": "3",
  "retry_on_connect_failure": "true", "retry_on": ["reset", "5xx"], "retry_on_status_codes": [503, 429],
  "request_headers": {"add": {"x-A": "1"}, "set": {"x-b": "%START_TIME%"}, "remove": ["x-c"]}, "response_headers": [{"add": [{"x-A": "1"}], "set": {"x-b": "%START_TIME%"}, "remove": "x-c"}]}},
{"match": {"http": {"path_exact": "/x"}}}, {"match": {"http": {"path_regex": "/.*"}}, "destination": {}}, {}]}`, routerOf, router},
		"splitter": {`{"Splits": [{"Weight": 99.5, "ServiceSubset": "v1", "Namespace": "",
 "RequestHeaders": {"Add": {"x-A": "1"}, "Set": {"x-b": "%START_TIME%"}, "Remove": ["x-c"]}, "ResponseHeaders": {"Add": {"x-A": "1"}, "Set": {"x-b": "%START_TIME%"}, "Remove": ["x-c"]}},
 {"weight": "0.5", "service": "other"}, {"Weight": 0}]}`, splitterOf, splitter},
		"resolver": {`{"DefaultSubset": "v1", "ConnectTimeout": "5s", "RequestTimeout": "60s", "Subsets": {"v1": {"Filter": "Service.Meta.version == 1"}, "v2": {"OnlyPassing": true}},
 "Redirect": {"Service": "other", "ServiceSubset": "v3", "Datacenter": "dc1", "Peer": ""}, "PrioritizeByLocality": {"Mode": ""},
 "Failover": {"*": {"Service": "other", "ServiceSubset": "v1", "Datacenters": ["dc1"], "Policy": null}, "v1": {"Targets": [{"Service": "a"}, {"ServiceSubset": "v2", "Datacenter": "dc1"}]}},
 "LoadBalancer": {"Policy": "ring_hash", "RingHashConfig": {"MinimumRingSize": 1024, "MaximumRingSize": 8388608}, "LeastRequestConfig": {"ChoiceCount": 5},
  "HashPolicies": [{"Field": "cookie", "FieldValue": "id", "Terminal": true, "CookieConfig": {"TTL": 60000000000, "Path": "/x"}}, {"Field": "header", "FieldValue": "x-User", "CookieConfig": {"Session": true}}, {"SourceIP": true}]}}`, resolverOf, resolver},
		"resolver, snake": {`{"default_subset": "v1", "connect_timeout": "5s", "request_timeout": "60s", "subsets": [{"v1": {"filter": "Service.Meta.version == 1"}}, {"v2": [{"only_passing": true}]}],
 "redirect": {"service": "other", "service_subset": "v3", "datacenter": "dc1"},
 "failover": [{"*": {"service": "other", "service_subset": "v1", "datacenters": ["dc1"]}, "v1": {"targets": [{"service": "a"}, {"service_subset": "v2", "datacenter": "dc1"}]}}],
 "load_balancer": {"policy": "ring_hash", "ring_hash_config": {"minimum_ring_size": 1024, "maximum_ring_size": 8388608}, "least_request_config": {"choice_count": 5},
  "hash_policies": [{"field": "cookie", "field_value": "id", "terminal": true, "cookie_config": {"ttl": "1m", "path": "/x"}}, {"field": "header", "field_value": "x-User", "cookie_config": {"session": true}}, {"source_ip": true}]}}`, resolverOf, resolver},
		"empty router":   {`{"Routes": []}`, routerOf, &chain.Router{Origin: "f:1"}},
		"empty resolver": {`{"Subsets": {"v1": null}, "Failover": {}}`, resolverOf, &chain.Resolver{Origin: "f:1", Subsets: map[string]chain.Subset{"v1": {}}}},
	} {
		t.Run(name, func(t *testing.T) {
			var got any
			if wrong := read(t, false, c.text, func(d *definition.Decoder) { d.Weak = true; got = c.read(d) }); len(wrong) > 0 {
				t.Errorf("mistakes: %q", wrong)
			}
			for i := range router.Routes { // whose lines the tests do not have
				if r, ok := got.(*chain.Router); ok && i < len(r.Routes) {
					r.Routes[i].Origin = "f:1"
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func routerOf(d *definition.Decoder) any   { return d.Router() }
func splitterOf(d *definition.Decoder) any { return d.Splitter() }
func resolverOf(d *definition.Decoder) any { return d.Resolver("dc1") }

// What the keys themselves show to be wrong is said at its line.
func TestChainEntryMistakes(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		read func(*definition.Decoder) any
		want string
	}{
		"misspelt in a route":  {"{\"Routes\": [{\"Match\": {\"HTTP\": {\n\"PathPrefixx\": \"/\"}}}]}", routerOf, `f:2: unknown key "PathPrefixx" in HTTP of Match: did you mean PathPrefix?`},
		"path outside of HTTP": {"{\"Routes\": [{\"Match\": {\n\"PathPrefix\": \"/\"}}]}", routerOf, `f:2: unknown key "PathPrefix" in Match: what a route matches is in its HTTP`},
		"misspelt, snake":      {"{\"routes\": [{\"destination\": {\n\"prefix_rewritten\": \"/\"}}]}", routerOf, `f:2: unknown key "prefix_rewritten" in Destination: did you mean PrefixRewrite?`},
		"key of a router":      {"{\n\"Route\": []}", routerOf, `f:2: unknown key "Route" in config: did you mean Routes?`},
		"namespace":            {"{\"Routes\": [{\"Destination\": {\n\"Namespace\": \"prod\"}}]}", routerOf, `f:2: Namespace in Destination: Setting Namespace requires Consul Enterprise, and is not supported`},
		"timeout":              {"{\"Routes\": [{\"Destination\": {\n\"RequestTimeout\": \"5\"}}]}", routerOf, `f:2: RequestTimeout is "5": it must be a time like "500ms" or "10s"`},
		"retries":              {"{\"Routes\": [{\"Destination\": {\n\"NumRetries\": -1}}]}", routerOf, `f:2: NumRetries is -1: it must be 0 to 2147483648`},
		"status code":          {"{\"Routes\": [{\"Destination\": {\"RetryOnStatusCodes\": [503,\n7]}}]}", routerOf, `f:2: RetryOnStatusCodes must be a list of status codes, 100 to 599`},
		"methods":              {"{\"Routes\": [{\"Match\": {\"HTTP\": {\"Methods\": [\"GET\",\n5]}}}]}", routerOf, `f:2: Methods must be a list of strings, not a number`},
		"service":              {"{\"Routes\": [{\"Destination\": {\n\"Service\": \"a*\"}}]}", routerOf, `f:2: Service "a*": a wildcard cannot be used here`},
		"header value":         {"{\"Routes\": [{\"Destination\": {\"RequestHeaders\": {\"Set\": {\n\"a\": 1}}}}]}", routerOf, `f:2: the value of "a" in Set must be a string, not a number`},
		"header twice":         {"{\"Routes\": [{\"Destination\": {\"RequestHeaders\": {\"Set\": {\"a\": \"1\",\n\"a\": \"2\"}}}}]}", routerOf, `f:2: "a" is given twice in Set`},
		"header list":          {"{\"Routes\": [{\"Destination\": {\"RequestHeaders\": {\n\"Set\": [\"a\"]}}}]}", routerOf, `f:2: Set must be a block of strings, not a string`},
		"weight":               {"{\"Splits\": [{\n\"Weight\": \"half\"}]}", splitterOf, `f:2: Weight is "half", which is not a number`},
		"weight of a kind":     {"{\"Splits\": [{\n\"Weight\": true}]}", splitterOf, `f:2: Weight must be a number, not a boolean`},
		"no weight at all":     {"{\"Splits\": [{\n\"Weight\": \"NaN\"}]}", splitterOf, `f:2: Weight is NaN: it must be -1000000 to 1000000`},
		"subset":               {"{\"Subsets\": {\"v1\": {\n\"Fliter\": \"x\"}}}", resolverOf, `f:2: unknown key "Fliter" in subset "v1": did you mean Filter?`},
		"subset twice":         {"{\"Subsets\": {\"v1\": {},\n\"v1\": {}}}", resolverOf, `f:2: "v1" is given twice in Subsets (first at line 1)`},
		"subsets":              {"{\n\"Subsets\": \"v1\"}", resolverOf, `f:2: Subsets must be a block of named blocks, not a string`},
		"a subset":             {"{\"Subsets\": {\n\"v1\": \"x\"}}", resolverOf, `f:2: subset "v1" must be a block, not a string`},
		"datacenter":           {"{\"Redirect\": {\n\"Datacenter\": \"dc2\"}}", resolverOf, `f:2: Datacenter "dc2" is not this one (dc1): files know the services of no other; beside Consul they can be reached`},
		"peer":                 {"{\"Redirect\": {\n\"Peer\": \"p\"}}", resolverOf, `f:2: Peer "p" in Redirect is not supported: files know the services of no peer`},
		"failover's":           {"{\"Failover\": {\"*\": {\"Datacenters\": [\"dc1\",\n\"dc2\"]}}}", resolverOf, `f:2: Datacenters "dc2" is not this one (dc1): files know the services of no other; beside Consul they can be reached`},
		"target's peer":        {"{\"Failover\": {\"*\": {\"Targets\": [{\n\"Peer\": \"p\"}]}}}", resolverOf, `f:2: Peer "p" in Target is not supported: files know the services of no peer`},
		"target's datacenter":  {"{\"Failover\": {\"*\": {\"Targets\": [{\n\"Datacenter\": \"dc3\"}]}}}", resolverOf, `f:2: Datacenter "dc3" is not this one (dc1): files know the services of no other; beside Consul they can be reached`},
		"sameness group":       {"{\"Redirect\": {\n\"SamenessGroup\": \"g\"}}", resolverOf, `f:2: SamenessGroup in Redirect: Setting SamenessGroup requires Consul Enterprise, and is not supported`},
		"failover's policy":    {"{\"Failover\": {\"*\": {\n\"Policy\": {\"Mode\": \"sequential\"}}}}", resolverOf, `f:2: Policy in Failover "*": Setting Policy requires Consul Enterprise, and is not supported`},
		"locality":             {"{\n\"PrioritizeByLocality\": {\"Mode\": \"failover\"}}", resolverOf, `f:2: PrioritizeByLocality in config: Setting PrioritizeByLocality requires Consul Enterprise, and is not supported`},
		"ring":                 {"{\"LoadBalancer\": {\"RingHashConfig\": {\n\"MinimumRingSize\": 9000000}}}", resolverOf, `f:2: MinimumRingSize is 9000000: it must be 0 to 8388608`},
		"hash policy":          {"{\"LoadBalancer\": {\"HashPolicies\": [{\n\"Fields\": \"x\"}]}}", resolverOf, `f:2: unknown key "Fields" in hash policy: did you mean Field?`},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := read(t, false, c.text, func(d *definition.Decoder) { d.Weak = true; c.read(d) })
			if diff := cmp.Diff([]string{c.want}, wrong); diff != "" {
				t.Error(diff)
			}
		})
	}
}
