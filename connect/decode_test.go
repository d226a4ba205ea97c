package connect

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/connect/internal/apitest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestDecodeInstances(t *testing.T) {
	domain := spiffeid.RequireTrustDomainFromString(apitest.Domain)
	node := `"Node":{"Address":"192.0.2.1","Datacenter":"dc1"}`
	for name, tt := range map[string]struct{ body, want string }{
		"null":                {`null`, ""},
		"none":                {`[]`, ""},
		"native":              {`[{` + node + `,"Service":{"ID":"a","Service":"api","Address":"192.0.2.2","Port":80,"Connect":{"Native":true}}}]`, "192.0.2.2:80"},
		"the node's address":  {`[{` + node + `,"Service":{"Service":"api","Port":80}}]`, "192.0.2.1:80"},
		"IPv6":                {`[{` + node + `,"Service":{"Service":"api","Address":"2001:db8::1","Port":80}}]`, "[2001:db8::1]:80"},
		"sidecar":             {`[{` + node + `,"Service":{"Kind":"connect-proxy","Service":"x","Port":80,"Proxy":{"DestinationServiceName":"API"}}}]`, "192.0.2.1:80"},
		"sidecar of another":  {`[{` + node + `,"Service":{"Kind":"connect-proxy","Service":"api","Port":80,"Proxy":{"DestinationServiceName":"x"}}}]`, ""},
		"gateway":             {`[{` + node + `,"Service":{"Kind":"terminating-gateway","Service":"api","Port":80}}]`, ""},
		"a peer's":            {`[{` + node + `,"Service":{"Service":"api","Port":80,"PeerName":"p"}}]`, ""},
		"another namespace":   {`[{` + node + `,"Service":{"Service":"api","Port":80,"Namespace":"n"}}]`, ""},
		"another partition":   {`[{` + node + `,"Service":{"Service":"api","Port":80,"Partition":"n"}}]`, ""},
		"no port":             {`[{` + node + `,"Service":{"Service":"api"}}]`, ""},
		"too much of a port":  {`[{` + node + `,"Service":{"Service":"api","Port":65536}}]`, ""},
		"no address":          {`[{"Node":{"Datacenter":"dc1"},"Service":{"Service":"api","Port":80}}]`, ""},
		"no datacenter":       {`[{"Node":{"Address":"192.0.2.1"},"Service":{"Service":"api","Port":80}}]`, ""},
		"a datacenter's path": {`[{"Node":{"Address":"192.0.2.1","Datacenter":"../x"},"Service":{"Service":"api","Port":80}}]`, ""},
		"the good of two":     {`[{` + node + `,"Service":{"Service":"x","Port":1}},{` + node + `,"Service":{"Service":"api","Port":2}}]`, "192.0.2.1:2"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decodeInstances([]byte(tt.body), "api", domain)
			if err != nil {
				t.Fatal(err)
			}
			var addresses []string
			for _, i := range got {
				addresses = append(addresses, i.Address)
			}
			if d := cmp.Diff(tt.want, strings.Join(addresses, " ")); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseName(t *testing.T) {
	type result struct{ Service, Datacenter string }
	for name, want := range map[string]result{
		"api": {"api", ""}, "a.b": {"a.b", ""}, "api.service.consul": {"api", ""}, "Api.Service.DC2.Consul.": {"Api", "dc2"},
		"consul": {"consul", ""}, "service.service.consul": {"service", ""},
		"": {}, ".consul": {}, "x.consul": {}, "service.consul": {}, "v1.api.service.consul": {}, "api.service.a.b.consul": {}, "api.node.consul": {},
		"a/b": {}, "é": {}, "*": {}, "api.service..consul": {}, ".service.consul": {},
	} {
		service, datacenter, err := parseName(name)
		if (err != nil) != (want == result{}) {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if got := (result{service, datacenter}); err == nil && got != want {
			t.Errorf("%q is %+v, want %+v", name, got, want)
		}
	}
}

// FuzzDecode gives all that reads answers anything: it must not panic, and what it makes of them has
// to hold together.
func FuzzDecode(f *testing.F) {
	root := apitest.NewRoot(f)
	leaf, _ := json.Marshal(root.Intermediate().Leaf(apitest.ID("web"), nil))
	roots, _ := json.Marshal(map[string]any{"TrustDomain": apitest.Domain, "Roots": []any{map[string]any{"RootCert": apitest.PEM(root.Cert)}}})
	for _, seed := range []string{
		string(leaf), string(roots), `{"Authorized":true,"Reason":"x"}`, `null`, `[]`, `{}`, `{"Roots":[null]}`, `[null]`, `{"authorized":true}`,
		`[{"Node":{"Address":"192.0.2.1","Datacenter":"dc1"},"Service":{"Service":"web","Port":80,"Proxy":null}}]`,
	} {
		f.Add([]byte(seed))
	}
	domain := spiffeid.RequireTrustDomainFromString(apitest.Domain)
	f.Fuzz(func(t *testing.T, body []byte) {
		if b, err := decodeRoots(body); err == nil && (b.Empty() || b.TrustDomain().IsZero()) {
			t.Error("roots without a root, or of no trust domain")
		}
		if s, err := decodeLeaf(body, "web"); err == nil {
			if i, err := parseID(s.ID); err != nil || !strings.EqualFold(i.service, "web") || s.PrivateKey == nil {
				t.Errorf("leaf of %s", s.ID)
			}
		}
		if v, err := decodeVerdict(body); err == nil && v.allowed && !strings.Contains(string(body), "true") {
			t.Error("allowed by nothing")
		}
		instances, err := decodeInstances(body, "web", domain)
		if err != nil && len(instances) > 0 {
			t.Error("instances and an error")
		}
		for _, i := range instances {
			if p, err := parseID(i.ID); err != nil || !strings.EqualFold(p.service, "web") || i.ID.TrustDomain() != domain || i.Address == "" {
				t.Errorf("instance %+v", i)
			}
		}
	})
}
