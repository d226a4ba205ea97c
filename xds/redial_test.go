package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// revoke revokes the leafs that web has now, and publishes that.
func (m *mesh) revoke() {
	m.t.Helper()
	var all []intention.Revocation
	if r := m.contents.Revoked; r != nil {
		for _, r := range r.All() {
			all = append(all, *r)
		}
	}
	m.certs.mu.Lock()
	for _, v := range m.certs.leafs {
		svid, _ := v.Load()
		if svid.Certificates[0].URIs[0].Path != "/ns/default/dc/dc1/svc/web" {
			continue
		}
		sum := sha256.Sum256(svid.Certificates[0].Raw)
		all = append(all, intention.Revocation{ID: svid.Certificates[0].URIs[0].String(), SHA256: hex.EncodeToString(sum[:])})
	}
	m.certs.mu.Unlock()
	m.contents.Revoked = intention.Revoke(all)
	m.publish()
}

// A revoked certificate's holder is sent its clusters once more, when it has accepted another certificate, and not before; neither the next
// certificate nor what is revoked no more sends them again, but the next revocation does.
func TestRedials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		webOverHTTP(m)
		c := m.stream("web")
		c.configureHTTP()

		m.revoke()
		c.silence() // it has no other certificate yet
		m.certs.rotate()
		leaf := c.expect("secret leaf/web")
		c.silence() // the clusters wait
		c.must(c.s.ACK(leaf))
		c.accept("cluster " + apiSNI)
		c.acceptAll()

		m.certs.rotate()
		c.accept("secret leaf/web")
		c.silence()

		m.revoke()
		m.certs.rotate()
		c.accept("secret leaf/web")
		c.accept("cluster " + apiSNI)
		c.acceptAll()

		m.contents.Revoked = nil
		m.publish()
		c.silence()
	})
}

// A certificate of the service that its sidecar has no more: connections may have been made with it.
func TestRedialsOfAnOlderLeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		webOverHTTP(m)
		c := m.stream("web")
		c.configureHTTP()
		web := identity.Service{TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Datacenter: "dc1", Name: identity.NewName("web")}
		m.contents.Revoked = intention.Revoke([]intention.Revocation{{ID: web.ID().String(), Serial: "1234"}})
		m.publish()
		c.accept("cluster " + apiSNI)
		c.acceptAll()
		time.Sleep(time.Minute)
		c.silence()
	})
}

// Clusters do not wait for ever for a leaf that Envoy refuses.
func TestRedialsWithoutTheLeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		webOverHTTP(m)
		c := m.stream("web")
		c.configureHTTP()
		m.revoke()
		m.certs.rotate()
		c.refuse("secret leaf/web", "no")
		c.accept("cluster " + apiSNI)
	})
}

// A cluster whose targets change while its holder's certificate is revoked waits for the other one with its first step, and is told in the
// steps that it takes.
func TestRedialsAmongSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		webOverHTTP(m)
		m.instances("api", "v1", catalog.Endpoint{Address: "127.0.0.1", Port: 1, Weight: 1, Healthy: true})
		m.instances("api", "v2", catalog.Endpoint{Address: "127.0.0.1", Port: 2, Weight: 1, Healthy: true})
		m.route("api", catalog.HTTP, resolve("api", "api", "v1", chain.FailoverTarget{Subset: "v2"}))
		m.publish()
		c := m.stream("web")
		c.subscribe(clusters)
		c.accept("cluster local_app," + v1SNI)
		c.subscribe(endpoints, v1SNI)
		c.accept("endpoint " + v1SNI)
		c.subscribe(listeners)
		c.accept("listener api:127.0.0.1:9000,public_listener:127.0.0.1:20000")
		c.subscribe(secrets, "leaf/web")
		c.accept("secret leaf/web")
		c.silence()

		m.revoke()
		m.certs.rotate()
		leaf := c.expect("secret leaf/web")
		m.instances("api", "v3", catalog.Endpoint{Address: "127.0.0.1", Port: 3, Weight: 1, Healthy: true})
		r := resolve("api", "api", "v1", chain.FailoverTarget{Subset: "v3"})
		r.Subsets["v3"] = chain.Subset{}
		m.route("api", catalog.HTTP, r)
		m.publish()
		c.silence()
		c.must(c.s.ACK(leaf))
		expect := func(k kind, targets ...string) *discoveryv3.DeltaDiscoveryResponse {
			t.Helper()
			r := c.expect(k.String() + " " + v1SNI)
			got := strings.ReplaceAll(says(t, r.GetResources()[0]), ".api.default.default.dc1", "")
			if want := k.String() + " " + strings.Join(targets, " "); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			return r
		}
		cds := expect(clusters, "v1", "v2", "v3")
		c.must(c.s.ACK(expect(endpoints, "v1:1", "v2:2")))
		c.silence()
		c.must(c.s.ACK(cds))
		c.must(c.s.ACK(expect(endpoints, "v1:1", "v3:3")))
		cds = expect(clusters, "v1", "v3")
		c.must(c.s.ACK(expect(endpoints, "v1:1", "v3:3")))
		c.must(c.s.ACK(cds))
		c.silence()
	})
}
