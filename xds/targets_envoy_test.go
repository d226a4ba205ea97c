package xds

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// many is long where E2E_LONG asks for that, and else short.
func many(short, long int) int {
	if os.Getenv("E2E_LONG") != "" {
		return long
	}
	return short
}

// patience is how long requests and connections may take: on a busy machine a change may come between.
const patience = 30 * time.Second

// at is an endpoint that is well.
func at(s *tlsServer) catalog.Endpoint {
	return catalog.Endpoint{Address: "127.0.0.1", Port: uint16(s.port), Weight: 1, Healthy: true}
}

// load asks through the upstream, on connections that stay and on fresh ones, and over HTTP/2 where the service speaks it.
func (r *real) load(protocol catalog.Protocol) (stop func() meshtest.Report) {
	r.t.Helper()
	c := meshtest.LoadConfig{URL: fmt.Sprintf("http://127.0.0.1:%d/", r.dials), KeepAlive: 60, Fresh: 150, Patience: patience}
	var h2 *meshtest.HTTP2
	if protocol != catalog.TCP {
		h2 = meshtest.NewHTTP2(c.URL)
		c.Calls = []meshtest.Call{{Rate: 60, Do: h2.Get}}
	}
	l, err := meshtest.StartLoad(c)
	if err != nil {
		r.t.Fatal(err)
	}
	return func() meshtest.Report {
		report := l.Stop()
		if h2 != nil {
			h2.Close()
		}
		return report
	}
}

// unscathed stops a load, of which nothing may have failed, while no listener changed.
func (r *real) unscathed(stop func() meshtest.Report, before map[string]int) {
	r.t.Helper()
	report := stop()
	if report.Failed > 0 || report.Requests == 0 {
		r.t.Errorf("%s", report)
	}
	changed := r.stats(`listener_manager\.(listener_modified|listener_in_place_updated|total_listeners_draining|total_filter_chains_draining)$`)
	for name, n := range changed {
		if n != before[name] {
			r.t.Errorf("%s: %d, and %d before", name, n, before[name])
		}
	}
	for name, n := range r.stats(`update_rejected$`) {
		if n != 0 {
			r.t.Errorf("%s = %d", name, n)
		}
	}
	r.t.Logf("FIGURE requests=%d failed=%d p99=%s", report.Requests, report.Failed, report.P99.Round(time.Millisecond))
}

// publish publishes, and waits until Envoy has all.
func (r *real) publish() {
	r.t.Helper()
	r.m.publish()
	view, _ := r.m.store.Views.Load()
	meshtest.Await(r.t, "Envoy has all", func() error {
		for _, c := range changeOf(r.m.server, view.Change().Number) {
			if c.ID == proxyID("web") && c.State != "accepted" && c.State != "does not concern it" {
				return fmt.Errorf("change %d: %s", view.Change().Number, c.State)
			}
		}
		return nil
	})
}

func changeOf(s *Server, number uint64) []ProxyChange {
	c, err := s.Change(number)
	if err != nil {
		return []ProxyChange{{ID: proxyID("web"), State: err.Error()}}
	}
	return c.Proxies
}

func onEnvoys(t *testing.T, protocols []catalog.Protocol, f func(t *testing.T, r *real, p catalog.Protocol)) {
	for _, version := range []string{envoytest.Oldest, envoytest.Middle, envoytest.Newest} {
		for _, p := range protocols {
			t.Run(version+"/"+p.String(), func(t *testing.T) { f(t, startReal(t, version, p), p) })
		}
	}
}

// Whatever the targets of a cluster become, from one publication to the next, no request fails: services, subsets, failover, and the plain form;
// nor when Envoy's stream breaks meanwhile.
func TestTargetsUnderLoad(t *testing.T) {
	onEnvoys(t, []catalog.Protocol{catalog.TCP, catalog.HTTP, catalog.HTTP2}, func(t *testing.T, r *real, p catalog.Protocol) {
		for _, service := range []string{"other", "third"} {
			r.m.contents.Services = append(r.m.contents.Services, catalog.Service{Name: identity.NewName(service), Protocol: p})
			r.m.instances(service, "", at(r.serveTLS(service, service)), at(r.serveTLS(service, service)))
		}
		v1, v2 := at(r.serveTLS("api", "v1")), at(r.serveTLS("api", "v2"))
		r.m.instances("api", "", v1, v2)
		r.m.instances("api", "v1", v1)
		r.m.instances("api", "v2", v2)
		r.publish()
		before := r.stats("listener_manager")
		stop := r.load(p)
		type place struct{ service, subset string }
		all := []place{{"api", ""}, {"api", "v1"}, {"api", "v2"}, {"other", ""}, {"third", ""}}
		changes := many(100, 500)
		if p != catalog.TCP { // whose clusters have the name of their first target
			changes = many(30, 200)
		}
		for range changes {
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			var failover []chain.FailoverTarget
			for _, f := range all[1 : 1+rand.IntN(3)] {
				if p == catalog.TCP || f.service != all[0].service {
					failover = append(failover, chain.FailoverTarget{Service: f.service, Subset: f.subset})
				}
			}
			to := all[0]
			switch {
			case rand.IntN(4) == 0: // the plain form
				r.m.route("api", p)
			case to.service == "api":
				r.m.route("api", p, resolve("api", "api", to.subset, failover...))
			default:
				r.m.route("api", p, resolve("api", to.service, to.subset), resolve(to.service, to.service, "", failover...))
			}
			r.m.publish()
			if n := r.session(); n != nil && rand.IntN(15) == 0 { // in the midst of it Envoy has to come back
				time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond)
				n.end(status.Error(codes.Unavailable, "a test"))
			}
			if rand.IntN(3) > 0 { // sometimes it changes again before Envoy has all
				meshtest.Await(t, "Envoy has all", r.inSync)
			}
		}
		r.publish()
		r.unscathed(stop, before)
	})
}

// An address that becomes another target's is not reached by connections of before: who has been verified as one service is nobody in
// another's place, and reached again when it is itself.
func TestMovedAddresses(t *testing.T) {
	onEnvoys(t, []catalog.Protocol{catalog.TCP, catalog.HTTP, catalog.HTTP2}, func(t *testing.T, r *real, p catalog.Protocol) {
		services := []string{"api", "other", "third"}
		var servers []*tlsServer
		for i := range 6 {
			service := services[i%3]
			servers = append(servers, r.serveTLS(service, fmt.Sprintf("%s-%d", service, i)))
		}
		for _, service := range services[1:] {
			r.m.contents.Services = append(r.m.contents.Services, catalog.Service{Name: identity.NewName(service), Protocol: p})
		}
		r.m.route("api", p, resolve("api", "api", "", chain.FailoverTarget{Service: "other"}, chain.FailoverTarget{Service: "third"}))
		right, refused := 0, 0
		for range many(12, 300) {
			rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
			itself := map[string]bool{} // who stands there as who it is
			first, impostors := "", 0   // the first level with somebody, and who of it is not
			n := 0
			for _, service := range services {
				var list []catalog.Endpoint
				for range rand.IntN(3) {
					s := servers[n]
					n++
					list = append(list, at(s))
					itself[s.called] = s.service == service
					if first == "" {
						first = service
					}
					if first == service && s.service != service {
						impostors++
					}
				}
				r.m.instances(service, "", list...)
			}
			r.publish()
			for range 5 {
				status, body := r.get()
				switch called, _, _ := strings.Cut(body, " "); {
				case status == http.StatusOK && !itself[called]:
					t.Errorf("%s answered, and is not who was dialled", body)
				case status == http.StatusOK:
					right++
				case first != "" && impostors == 0:
					t.Errorf("%d %s, want an answer of %s", status, body, first)
				default:
					refused++
				}
			}
		}
		t.Logf("FIGURE right=%d refused=%d", right, refused)
		if right == 0 || refused == 0 {
			t.Error("the test tests nothing")
		}
	})
}

// Routes are switched to a cluster that comes with them, while the one that they led to goes, and no request fails (make before break).
func TestMakeBeforeBreak(t *testing.T) {
	onEnvoys(t, []catalog.Protocol{catalog.HTTP, catalog.HTTP2}, func(t *testing.T, r *real, p catalog.Protocol) {
		r.m.instances("api", "v1", at(r.serveTLS("api", "v1")))
		r.m.instances("api", "v2", at(r.serveTLS("api", "v2")))
		r.m.route("api", p, resolve("api", "api", "v1"))
		r.publish()
		before := r.stats("listener_manager")
		added := func() int { return sum(r.stats(`^cluster_manager\.cluster_added$`)) }
		had := added()
		stop := r.load(p)
		r.m.pause = 0
		for i := range many(60, 1000) {
			r.m.route("api", p, resolve("api", "api", []string{"v2", "v1"}[i%2]))
			r.publish()
		}
		switches := added() - had
		r.unscathed(stop, before)
		if want := many(60, 1000); switches < want {
			t.Errorf("%d clusters were added, want %d", switches, want)
		}
	})
}

func sum(stats map[string]int) (n int) {
	for _, x := range stats {
		n += x
	}
	return n
}
