package xds

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNACKOfSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.subscribe(clusters)
		c.accept("cluster " + apiSNI + ",local_app")
		c.subscribe(listeners)
		const api, public = "api:127.0.0.1:9000", "public_listener:127.0.0.1:20000"
		c.refuse("listener "+api+","+public, "one of them")
		c.refuse("listener "+api, "cannot bind")
		c.accept("listener " + public)
		c.silence()

		// Refused alone it comes again, alone, at growing intervals.
		for _, wait := range []int{10, 20, 40, 60, 60} {
			time.Sleep(time.Duration(wait)*time.Second - time.Millisecond)
			c.silence()
			time.Sleep(2 * time.Millisecond)
			c.refuse("listener "+api, "cannot bind")
		}
		synctest.Wait()
		p, _ := m.server.Proxy(proxyID("web"))
		if n := p.LastNACK; n == nil || n.Type != "listener" || !slices.Equal(n.Resources, []string{api}) || n.Message != "cannot bind" || !n.Standing {
			t.Errorf("LastNACK = %+v", n)
		}
		if got := p.State(); got != "refuses 1 resource" || p.InSync {
			t.Errorf("State() = %q, InSync = %t", got, p.InSync)
		}
		if n := metric(t, m, "sallyport_xds_nacks_total", "listener"); n != 7 {
			t.Errorf("%v NACKs counted, want 7", n)
		}
		if log := m.logs.String(); !strings.Contains(log, "cannot bind") || strings.Count(log, "envoy refused resources") != 7 {
			t.Errorf("log:\n%s", log)
		}

		// A new version comes at once, and its predecessor's refusals are forgotten.
		m.contents.Proxies[0].Upstreams[0].BalanceConnections = true
		m.publish()
		c.refuse("listener "+api, "still not")
		time.Sleep(firstRetry + time.Millisecond)
		c.accept("listener " + api)
		c.silence()
		if p, _ := m.server.Proxy(proxyID("web")); p.LastNACK == nil || p.LastNACK.Standing {
			t.Errorf("LastNACK = %+v, want one that healed", p.LastNACK)
		}
		healed(t, m, 1, api, "accepted")
	})
}

// healed looks for the lines of the log that say of a resource that Envoy does not refuse it any more.
func healed(t *testing.T, m *mesh, times int, resource, status string) {
	t.Helper()
	synctest.Wait()
	line := `msg="envoy refuses resources no more" audit=nack proxy=` + string(proxyID("web")) + ` type_url=type.googleapis.com/envoy.config.listener.v3.Listener resources=[` + resource + `] status=` + status
	if log := m.logs.String(); strings.Count(log, line) != times || strings.Count(log, "no more") != times {
		t.Errorf("log:\n%s\nwant %d times: %s", log, times, line)
	}
}

// TestNACKHeals: what Envoy accepts on another stream, or is to have no more, it refuses no more.
func TestNACKHeals(t *testing.T) {
	const api, public = "api:127.0.0.1:9000", "public_listener:127.0.0.1:20000"
	refused := func(t *testing.T) (*mesh, *talk) {
		t.Helper()
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.subscribe(clusters)
		c.accept("cluster " + apiSNI + ",local_app")
		c.subscribe(listeners)
		c.refuse("listener "+api+","+public, "one of them")
		c.refuse("listener "+api, "cannot bind")
		c.accept("listener " + public)
		healed(t, m, 0, api, "")
		return m, c
	}
	t.Run("on another stream", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, c := refused(t)
			c.s.Close()
			synctest.Wait()
			c = m.stream("web")
			c.subscribe(clusters)
			c.accept("cluster " + apiSNI + ",local_app")
			c.subscribe(listeners)
			c.accept("listener " + api + "," + public)
			healed(t, m, 1, api, "accepted")
		})
	})
	t.Run("withdrawn", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, c := refused(t)
			m.contents.Proxies[0].Upstreams = nil
			m.publish()
			c.acceptAll()
			healed(t, m, 1, api, "withdrawn")
		})
	})
}

// One refused secret takes no other with it.
func TestNACKOfASecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.subscribe(clusters)
		c.acceptAll() // the leaf is there now; without it, the others come first
		c.subscribe(secrets, "leaf/web", "peers/web", "roots")
		c.accept("secret leaf/web")
		c.refuse("secret peers/web", "bad")
		c.accept("secret roots")
		c.silence()
		m.certs.rotate()
		c.accept("secret leaf/web")
		c.silence()
	})
}
