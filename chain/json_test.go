package chain_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// answered is a chain as Consul 1.19.2 answered it.
func answered(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "consul-"+name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// answeredEntries are the entries that the answers are made of.
func answeredEntries() *chain.Entries {
	return mesh(
		resolver("a", chain.Resolver{
			DefaultSubset: "v1", Subsets: map[string]chain.Subset{"v1": {Filter: "Service.Meta.v == 1"}, "v2": {OnlyPassing: true}},
			ConnectTimeout: 1500 * time.Millisecond, RequestTimeout: 7 * time.Second,
			LoadBalancer: &chain.LoadBalancer{Policy: "ring_hash", RingHash: &chain.RingHash{MinimumRingSize: 10, MaximumRingSize: 20}, HashPolicies: []chain.HashPolicy{
				{Field: "cookie", FieldValue: "x", Cookie: &chain.CookieConfig{TTL: 30 * time.Second, Path: "/"}, Terminal: true}, {SourceIP: true}, {Field: "header", FieldValue: "y"},
			}},
			Failover: map[string]chain.Failover{"v1": {Targets: []chain.FailoverTarget{{Service: "b"}, {Subset: "v2"}, {Peer: "p"}, {Datacenter: "dc2"}}}},
		}),
		splitter("b",
			chain.Split{Weight: 33.333, Service: "a", RequestHeaders: &chain.HeaderModifiers{Set: map[string]string{"a": "b"}, Remove: []string{"c"}}},
			chain.Split{Weight: 66.67, ResponseHeaders: &chain.HeaderModifiers{Add: map[string]string{"x": "y"}}},
			chain.Split{Service: "c"},
		),
		splitter("d", chain.Split{Weight: 50, Service: "b"}, chain.Split{Weight: 50}),
		router("a",
			chain.Route{
				Match: &chain.HTTPMatch{
					PathPrefix: "/x", CaseInsensitive: true, Methods: []string{"GET", "POST"},
					Header:     []chain.HeaderMatch{{Name: "h", Present: true, Invert: true}, {Name: "H2", Exact: "1"}},
					QueryParam: []chain.QueryMatch{{Name: "q", Regex: "a.*"}},
				},
				Destination: &chain.Destination{
					Service: "b", PrefixRewrite: "/", RequestTimeout: -1, IdleTimeout: 1500 * time.Millisecond, RetryOnConnectFailure: true, RetryOn: []string{"reset"},
					RetryOnStatusCodes: []uint32{503}, RequestHeaders: &chain.HeaderModifiers{Add: map[string]string{"x": "y"}},
				},
			},
			chain.Route{Match: &chain.HTTPMatch{PathExact: "/y"}, Destination: &chain.Destination{Subset: "v2", Service: "a", NumRetries: 3}},
			chain.Route{Match: &chain.HTTPMatch{}}, chain.Route{Destination: &chain.Destination{}}, chain.Route{},
		),
	)
}

// A chain that is compiled here, one that is read of what Consul has compiled, and Consul's answer are the same.
func TestJSON(t *testing.T) {
	for _, name := range []string{"a", "c", "d"} {
		t.Run(name, func(t *testing.T) {
			compiled, _, err := chain.Compile(answeredEntries(), identity.NewName(name), chain.Overrides{})
			if err != nil {
				t.Fatal(err)
			}
			consuls, err := chain.Read(answered(t, name))
			if err != nil {
				t.Fatal(err)
			}
			for what, c := range map[string]*chain.Chain{"compiled": compiled, "read": consuls} {
				if diff := cmp.Diff(generic(t, answered(t, name)), generic(t, written(t, c))); diff != "" {
					t.Errorf("%s: %s", what, diff)
				}
				if again, err := chain.Read(written(t, c)); err != nil || !again.Equal(consuls) && name != "d" { // whose weights are as they were written
					t.Errorf("%s: it is read otherwise than it was written, or not: %v\n%s", what, err, cmp.Diff(consuls, again))
				}
			}
		})
	}
}

func written(t testing.TB, c *chain.Chain) []byte {
	t.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func generic(t testing.TB, data []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestReadMistakes(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"no JSON":             {`{`, `[`, `discovery chain: `},
		"type of a node":      {`"Type": "splitter"`, `"Type": "mirror"`, `discovery chain of "a": node "splitter:b.default.default": "mirror" is no type of nodes that sallyport knows`},
		"next node":           {`"NextNode": "resolver:c.`, `"NextNode": "resolver:x.`, `discovery chain of "a": node "splitter:b.default.default" leads to "resolver:x.default.default.dc1", which is not there`},
		"circle":              {`"NextNode": "resolver:c.default.default.dc1"`, `"NextNode": "splitter:b.default.default"`, `discovery chain of "a": node "splitter:b.default.default" leads to "splitter:b.default.default", as none of its type does`},
		"start":               {`"StartNode": "`, `"StartNode": "x`, `discovery chain of "a": its StartNode "xrouter:a.default.default" is not there`},
		"target":              {`"Target": "b.`, `"Target": "x.`, `discovery chain of "a": node "resolver:b.default.default.dc1" has the target "x.default.default.dc1", which is not there`},
		"failover":            {`"Targets": [`, `"Targets": ["x",`, `discovery chain of "a": node "resolver:v1.a.default.default.dc1" has the target "x", which is not there`},
		"ID":                  {`"ID": "b.`, `"ID": "c.`, `discovery chain of "a": target "b.default.default.dc1": its ID is "c.default.default.dc1"`},
		"SNI":                 {`"SNI": "b.default.dc1.internal.td.example"`, `"SNI": ""`, `discovery chain of "a": target "b.default.default.dc1": it has no Datacenter, SNI or Name`},
		"a time":              {`"IdleTimeout": "1.5s"`, `"IdleTimeout": "1.5"`, `discovery chain of "a": node "router:a.default.default": Routes[0]: IdleTimeout: time: missing unit in duration "1.5"`},
		"another time":        {`"ConnectTimeout": "5s"`, `"ConnectTimeout": "soon"`, `discovery chain of "a": target "b.default.default.dc1": ConnectTimeout: time: invalid duration "soon"`},
		"service":             {`"ServiceName": "a"`, `"ServiceName": ""`, `discovery chain of "": it has no ServiceName`},
		"resolver of nothing": {`"Resolver": {`, `"Resolve": {`, `discovery chain of "a": node "resolver:b.default.default.dc1": a resolver without Resolver`},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.ReplaceAll(string(answered(t, "a")), c.old, c.new)
			if text == string(answered(t, "a")) {
				t.Fatal("nothing is replaced")
			}
			got, err := chain.Read([]byte(text))
			if got != nil || err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

// Keys that a later Consul may have change nothing, unless they say for which requests a route is.
func TestReadUnknown(t *testing.T) {
	text := string(answered(t, "a"))
	for _, c := range [][2]string{
		{`"ServiceName": "a"`, `"ServiceName": "a", "Later": [1], "ServiceMeta": {"a": "b"}`},
		{`"PathExact": "/y"`, `"PathExact": "/y", "Host": "x", "Scheme": ""`},
		{`"Name": "H2"`, `"Name": "H2", "Range": {"Start": 1}, "Other": false`},
		{`"Name": "q"`, `"Name": "q", "Contains": "x"`},
		{`"NumRetries": 3`, `"NumRetries": 3, "RetryBudget": 1`},
	} {
		if !strings.Contains(text, c[0]) {
			t.Fatal(c[0])
		}
		text = strings.ReplaceAll(text, c[0], c[1])
	}
	got, err := chain.Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var unknown [][]string
	for _, r := range got.Nodes[got.Start].Routes {
		unknown = append(unknown, r.Definition.Unknown)
	}
	if diff := cmp.Diff([][]string{{"Match.HTTP.Header[1].Range", "Match.HTTP.QueryParam[0].Contains"}, {"Match.HTTP.Host"}, nil, nil, nil, nil}, unknown); diff != "" {
		t.Error(diff)
	}
}

// What is read can be written and is read again as the same.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"a", "c", "d"} {
		f.Add(answered(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := chain.Read(data)
		if err != nil {
			return
		}
		again, err := chain.Read(written(t, c))
		if err != nil {
			t.Fatalf("what was written is not read: %v", err)
		}
		if a, b := written(t, c), written(t, again); string(a) != string(b) {
			t.Errorf("%s\nis read as\n%s", a, b)
		}
	})
}
