package xds

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// What became of a change is known for each proxy: when it was sent and accepted, that it waits,
// that it does not concern it.
func TestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		state := func(number uint64, proxy string) ProxyChange {
			t.Helper()
			synctest.Wait()
			s, err := m.server.Change(number)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range s.Proxies {
				if p.ID == proxyID(proxy) {
					return p
				}
			}
			t.Fatalf("%s is not in %+v", proxy, s)
			return ProxyChange{}
		}
		want := func(number uint64, proxy, want string) ProxyChange {
			t.Helper()
			p := state(number, proxy)
			if p.State != want {
				t.Errorf("change %d: %s: %q, want %q", number, proxy, p.State, want)
			}
			return p
		}
		newest := func() uint64 {
			v, _ := m.store.Views.Load()
			return v.Change().Number
		}
		first := newest()
		want(0, "api", "not connected")
		m.service("db", catalog.TCP)
		m.publish()
		want(0, "api", "does not concern it")
		c := m.stream("api")
		c.configureAPI()
		if p := want(first, "api", "accepted"); p.Sent.IsZero() || p.Accepted.Before(p.Sent) {
			t.Errorf("the first configuration: %+v", p)
		}

		seen := time.Now()
		m.intend("db", "api", intention.Allow)
		m.publish()
		granted := newest()
		sds := c.expect("secret peers/api")
		ecds := c.expect("extension intentions/api")
		time.Sleep(time.Second)
		if p := want(granted, "api", "sent"); p.Sent.Before(seen) || !p.Accepted.IsZero() {
			t.Errorf("sent and not accepted: %+v", p)
		}
		c.must(c.s.ACK(ecds))
		want(granted, "api", "sent")
		c.must(c.s.ACK(sds))
		if p := want(granted, "api", "accepted"); p.Accepted.Sub(p.Sent) < time.Second {
			t.Errorf("accepted: %+v", p)
		}
		want(granted, "db", "does not concern it")
		want(granted, "web", "does not concern it")
		want(first, "api", "accepted")

		// One that changes nothing that Envoy is told is accepted at once.
		for i := range m.contents.Proxies {
			m.contents.Proxies[i].Origin = "elsewhere.hcl:1"
		}
		m.publish()
		if p := want(newest(), "api", "accepted"); !p.Sent.IsZero() {
			t.Errorf("nothing had to be sent: %+v", p)
		}
		want(newest(), "web", "not connected")
		c.silence()

		// One of which Envoy refuses a part.
		m.intend("batch", "api", intention.Allow)
		m.publish()
		c.must(c.s.ACK(c.expect("secret peers/api")))
		c.must(c.s.NACK(c.expect("extension intentions/api"), "not this one"))
		want(newest(), "api", "refused")
		m.intend("cron", "api", intention.Allow)
		m.publish()
		c.must(c.s.ACK(c.expect("secret peers/api")))
		c.must(c.s.ACK(c.expect("extension intentions/api")))
		want(newest(), "api", "accepted")

		// What is said and not in force is no part of what Envoy accepts.
		granted = newest()
		held := intention.Intention{
			Source: intention.Source{Name: identity.NewName("job")}, Destination: identity.NewName("api"), Action: intention.Allow, Held: "b.hcl can be taken", Origin: "a.hcl:4",
		}
		m.contents.Intentions = append(m.contents.Intentions, held)
		m.publish()
		c.must(c.s.ACK(c.expect("extension intentions/api")))
		want(newest(), "api", "accepted, but a grant waits")
		want(newest(), "db", "does not concern it")
		want(granted, "api", "accepted")
		for number, waits := range map[uint64]string{newest(): "job => api (allow) at a.hcl:4 waits until b.hcl can be taken", granted: ""} {
			if s, err := m.server.Change(number); err != nil || strings.Join(s.Held, "\n") != waits {
				t.Errorf("change %d: %v waits, %v, want %q", number, s.Held, err, waits)
			}
		}
		m.contents.Intentions = m.contents.Intentions[:len(m.contents.Intentions)-1]

		// Old ones are forgotten, and said to be.
		for range catalog.KeptOfProxy + 1 {
			m.intend("late", "api", map[bool]intention.Action{true: intention.Allow, false: intention.Deny}[newest()%2 == 0])
			m.publish()
		}
		want(granted, "api", "not known any more")
		if _, err := m.server.Change(newest() + 1); err == nil {
			t.Error("a change that has not been is known")
		}
		for range 100 {
			m.contents.Endpoints[0].List[0].Port++
			m.publish()
		}
		if _, err := m.server.Change(granted); err == nil {
			t.Error("a change of long ago is known")
		}
	})
}

// What Envoy refuses of one change is no property of the next: that is accepted when all of it is,
// and a revocation has happened when Envoy has accepted the chain's new name.
func TestChangeBehindARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		m.intend("batch", "web", intention.Allow)
		m.publish()
		c := m.stream("web")
		c.configure()
		want := func(number uint64, want string) {
			t.Helper()
			synctest.Wait()
			s, err := m.server.Change(number)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range s.Proxies {
				if p.ID == proxyID("web") && p.State != want {
					t.Errorf("change %d: %q, want %q", s.Number, p.State, want)
				}
			}
		}
		m.contents.Proxies[0].Upstreams[0].BalanceConnections = true
		m.publish()
		v, _ := m.store.Views.Load()
		refused := v.Change().Number
		c.refuse("listener api:127.0.0.1:9000", "cannot bind: address in use")
		want(refused, "refused")
		m.intend("batch", "web", intention.Deny)
		m.publish()
		c.accept("secret peers/web")
		want(0, "sent")
		c.accept("extension intentions/web")
		want(0, "sent")
		c.accept("listener public_listener:127.0.0.1:20000")
		want(0, "accepted")
		want(refused, "refused")
		if p, _ := m.server.Proxy(proxyID("web")); p.InSync || p.Streams[0].RevocationPending || p.Streams[0].DrainsUntil.IsZero() {
			t.Errorf("in sync %t, %+v", p.InSync, p.Streams[0])
		}
		m.contents.Proxies[0].Origin = "elsewhere.hcl:1" // nothing that Envoy is told
		m.publish()
		want(0, "accepted")
		time.Sleep(firstRetry)
		c.accept("listener api:127.0.0.1:9000")
		want(refused, "accepted")
	})
}
