package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"testing/synctest"
	"time"

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
