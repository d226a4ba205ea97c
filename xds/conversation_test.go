package xds

import (
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
)

const webSNI, apiSNI = "web.default.dc1.internal." + trustDomain, "api.default.dc1.internal." + trustDomain

// twoServices is web, which dials api over tcp, and is allowed to.
func twoServices(m *mesh) {
	m.service("web", catalog.TCP, "api")
	m.service("api", catalog.TCP)
	m.intend("web", "api", intention.Allow)
	m.publish()
}

// configure speaks the first configuration of web up to its end, and ends in silence.
func (c *talk) configure() {
	c.t.Helper()
	c.subscribe(clusters)
	cds := c.expect("cluster " + apiSNI + ",local_app")
	c.subscribe(endpoints, apiSNI)
	c.accept("endpoint " + apiSNI)
	c.must(c.s.ACK(cds))
	c.subscribe(listeners)
	c.accept("listener api:127.0.0.1:9000,public_listener:127.0.0.1:20000")
	c.subscribe(secrets, "leaf/web", "peers/web", "roots")
	c.accept("secret leaf/web")
	c.accept("secret peers/web")
	c.accept("secret roots")
	c.subscribe(extensions, "rules/web")
	c.accept("extension rules/web")
	c.silence()
}

func TestFirstConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{})
		twoServices(m)
		m.stream("web").configure()
	})
}
