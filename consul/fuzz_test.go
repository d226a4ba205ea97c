package consul

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
)

// FuzzConsulJSON reads any bytes as each of the agent's answers: nothing panics, and what comes out can be served.
func FuzzConsulJSON(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"Services":[null,{"Kind":"connect-proxy","ID":"p","Port":-1,"Proxy":{"DestinationServiceName":"web","Config":{"bind_port":1e99,"limits":[{}],"passive_health_check":{"interval":-1}},"Upstreams":[null,{}]}}]}`))
	f.Add([]byte(`{"Chain":{"StartNode":"a","Nodes":{"a":null},"Targets":{"b":null}}}`))
	f.Add([]byte(`{"Chain":{"ServiceName":"api","StartNode":"a","Nodes":{"a":{"Type":"router","Routes":[{"NextNode":"b"}]},"b":{"Type":"resolver","Resolver":{"Target":"t"}}},"Targets":{"t":{"ID":"t","Service":"x?y=z","ServiceSubset":"v1","Datacenter":"dc2","SNI":"s"}}}}`))
	f.Add([]byte(`{"TLS":{"Incoming":null},"HTTP":{"Incoming":{}}}`))
	f.Add([]byte(`{"api":[{"SourceName":"web","DestinationName":"api","Action":"allow","OnlyOnMondays":true}]}`))
	f.Add([]byte(`{"format":1,"sha256":"","known":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeJSON[nodeServices](b); err == nil {
			byID := map[string]*registration{}
			for _, r := range s.Services {
				if r != nil {
					byID[r.ID] = r
				}
			}
			for _, r := range byID {
				s, ok := readSidecar(r, byID, "dc1", "fd00::1")
				if !ok || s.proxy.Refused != "" {
					continue
				}
				p, _ := s.finish(&discovery{}, meshDefaults{}, Config{})
				if p.ID == "" || p.Service.Check() != nil || p.Inbound.Port == 0 || p.Inbound.Address == "" || p.Inbound.LocalPort == 0 && p.Inbound.LocalSocket == "" {
					t.Errorf("proxy %+v", p)
				}
				if p.Inbound.ConnectTimeout < 0 || p.Inbound.RequestTimeout < 0 || p.Inbound.IdleTimeout.Duration < 0 {
					t.Errorf("times of %+v", p.Inbound)
				}
				seen := map[string]bool{}
				for _, u := range s.upstreams {
					if u.Destination.Check() != nil || u.BindPort == 0 && u.BindSocket == "" || seen[u.Name()] || u.Passive.Interval < 0 || u.ConnectTimeout < 0 {
						t.Errorf("upstream %+v", u)
					}
					seen[u.Name()] = true
				}
			}
		}
		if list, err := decodeList[*instance](b); err == nil {
			far := len(b)%2 == 0
			now := readInstances(list, far)
			endpoints := now.endpoints
			for i, e := range endpoints {
				if e.Port == 0 || e.Address == "" || e.Weight < 1 || e.Weight > mostWeight {
					t.Errorf("endpoint %+v", e)
				}
				if i > 0 && endpoints[i-1].Address == e.Address && endpoints[i-1].Port == e.Port {
					t.Errorf("twice: %+v", e)
				}
			}
			mergeInstances(far)(now, now)
		}
		for _, name := range []string{"api", ""} {
			d, err := readDiscovery(b, name)
			if err != nil {
				continue
			}
			var problems []Problem
			lenient(&problems, Problem{}).Decoder(&d.meta, "Meta").Own()
			for _, mode := range []string{"", "none", "local"} {
				l := d.lead(name, "", "dc1", mode)
				if l.err == nil && len(l.groups) == 0 {
					t.Errorf("%+v leads nowhere", d.chain)
				}
				for _, g := range l.groups {
					service, datacenter, more := splitTarget(g.published())
					asked, again, filter := splitTarget(g.asked())
					if service != g.name.Service || datacenter != g.datacenter || more != "" && more != subsetMark+g.subset || asked != service || again != datacenter || filter != "" && filter != filterMark+g.filter {
						if l.chain != nil { // of the default one the name is what was asked
							t.Errorf("%+v is published as %q and asked as %q", g, g.published(), g.asked())
						}
					}
				}
			}
		}
		if m, err := decodeIntentions("api")(b); err == nil && m.own != nil {
			for _, i := range m.own.Intentions {
				if i.Unsupported != "" && i.Action == intention.Allow {
					t.Errorf("allowed and not understood: %+v", i)
				}
			}
		}
		if e, err := decodeJSON[meshEntry](b); err == nil {
			e.readMesh(&catalog.Mesh{})
		}
		if d, err := decodeJSON[proxyDefaults](b); err == nil {
			d.settings()
		}
		if r, err := decodeRoots(b); err == nil {
			mergeRoots(r, r)
		}
		_, _ = decodeLeaf(b, webIdentity())
		_, _ = decodeJSON[self](b)
		_, _ = decodeLKG(b)
	})
}
