//go:build e2e

package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// federated starts a server in each of two datacenters, of which dc1 is the primary one, and waits until they know each other.
func federated(t *testing.T) (first, second *meshtest.Consul) {
	t.Helper()
	first = meshtest.NewConsul(t, meshtest.Agent{Node: "first", Primary: "dc1"})
	second = meshtest.NewConsul(t, meshtest.Agent{Node: "second", Primary: "dc1", Datacenter: "dc2", JoinWAN: []int{first.Agent.WAN}})
	first.Launch()
	second.Launch()
	for _, c := range []*meshtest.Consul{first, second} {
		c.AwaitReady()
		meshtest.Await(t, "two datacenters", func() error {
			var known []string
			if err := c.Do("GET", "/v1/catalog/datacenters", nil, &known); err != nil || len(known) != 2 {
				return fmt.Errorf("%v, %w", known, err)
			}
			return nil
		})
	}
	return first, second
}

// TestConsulDatacenters dials services in another datacenter: web in dc2 has upstreams in both, of one name too. Intentions written in the primary hold in
// either; what changes in the other is seen; when it is away, and comes back with all its checks critical, nobody notices. All of it is called what
// Consul's own control plane calls it.
func TestConsulDatacenters(t *testing.T) {
	t.Parallel()
	first, second := federated(t)
	here, there := besideConsul(t, second), besideConsul(t, first)
	api := meshtest.Service{
		Name: "api", Protocol: "http", Local: serveStreams(t, "hello from dc1"), CheckInterval: "1s",
		WAN: "127.0.0.3", Config: []string{"bind_address = 0.0.0.0"}, // dialled from dc2 at an address that dc1 does not use
	}
	there.Add(api)
	there.Add(meshtest.Service{Name: "db", Local: serveEcho(t, ""), CheckInterval: "1s"})
	here.Add(meshtest.Service{Name: "api", Local: serveHTTP(t, "hello from dc2"), CheckInterval: "1s"}) // its protocol is a matter of all datacenters
	here.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "api?dc=dc1", "db?dc=dc1"}, CheckInterval: "1s"})
	allow := func() {
		there.Intend("api", meshtest.Intentions{"web": "allow"})
		there.Intend("db", meshtest.Intentions{"web": "allow"})
	}
	allow()
	there.Launch()
	here.Serve()
	there.AwaitServe()
	there.Sidecars("api", "db")
	here.Sidecar("api")
	web := here.Sidecar("web")
	ask := map[string]func() meshtest.Answer{
		"hello from dc2": func() meshtest.Answer { return meshtest.GetPlain("http://" + here.Upstream("web", "api")) },
		"hello from dc1": func() meshtest.Answer { return meshtest.GetPlain("http://" + here.Upstream("web", "api?dc=dc1")) },
		"hello":          func() meshtest.Answer { return meshtest.EchoPlain(here.Upstream("web", "db?dc=dc1"), "hello") },
	}
	expect := func(what string, want func(meshtest.Answer) error) {
		t.Helper()
		took := meshtest.Await(t, what, func() error {
			for body, ask := range ask {
				a := ask()
				if err := want(a); err != nil {
					return fmt.Errorf("%s: %w", body, err)
				}
				if a.Allowed() && strings.TrimSpace(a.Body) != body {
					return fmt.Errorf("%q answers, want %q", a.Body, body)
				}
			}
			return nil
		})
		figure(t, "state=%q reached_ms=%.0f", what, millis(took))
	}
	expect("reached", wantAllowed)

	there.Intend("api", meshtest.Intentions{"web": "deny"})
	there.Intend("db", nil)
	expect("denied", wantDenied)
	allow()
	expect("allowed again", wantAllowed)

	// It moves to another port.
	api.Port = there.Port()
	there.Add(api)
	moved := "127.0.0.3:" + strconv.Itoa(api.Port)
	took := meshtest.Await(t, "another endpoint", func() error {
		if now := called(t, web)["endpoints of api.default.dc1"]; now != moved {
			return fmt.Errorf("%s, want %s", now, moved)
		}
		return nil
	})
	figure(t, "endpoint_seen_ms=%.0f", millis(took))
	first.AwaitChecks()
	expect("reached again", wantAllowed)

	// dc1 is away under load.
	load := startLoad(t, meshtest.LoadConfig{
		URL: "http://" + here.Upstream("web", "api?dc=dc1"), KeepAlive: 50, Fresh: 10, TCP: here.Upstream("web", "db?dc=dc1"), Held: 3, Dialled: 10,
	})
	same := unmodified(t, web)
	updates := elsewhere(web.Stats().Updates())
	first.Kill()
	says := func(text string, want bool) error {
		if s := here.MustRun("status"); strings.Contains(s, text) != want {
			return errors.New(s)
		}
		return nil
	}
	const unread = "endpoints of api?dc=dc1: cannot be read"
	meshtest.Await(t, "the status says that dc1 is away", func() error { return says(unread, true) })
	time.Sleep(5 * time.Second)
	first.Start()
	took = meshtest.Await(t, "dc1 is back", func() error { return says(unread, false) })
	passing(t, first)
	time.Sleep(2 * time.Second) // for what follows from the last of them
	if now := elsewhere(web.Stats().Updates()); now != updates {
		t.Errorf("web's Envoy was sent %d updates other than secrets while dc1 was away", now-updates)
	}
	same("dc1 away")
	unscathed(t, "dc1 away", load.Stop())
	figure(t, "back_again_ms=%.0f", millis(took))
	there.Intend("db", nil)
	meshtest.Await(t, "a change in dc1 counts", func() error { return wantDenied(ask["hello"]()) })
	allow()

	// The same sidecar under Consul's own control plane.
	ours := called(t, web)
	web.Close()
	theirs := called(t, second.Envoy(here, "web", time.Second))
	expect("reached by Consul's own", wantAllowed)
	for _, what := range slices.Sorted(maps.Keys(theirs)) {
		if ours[what] != theirs[what] {
			t.Errorf("%s is %q, under Consul's own control plane %q", what, ours[what], theirs[what])
		}
	}
	if len(ours) != len(theirs) || len(ours) != 9 {
		t.Errorf("%v, under Consul's own control plane %v", ours, theirs)
	}
}

// passing waits until no check is critical: those that an agent has anew when it was restarted have run.
func passing(t *testing.T, c *meshtest.Consul) {
	t.Helper()
	meshtest.Await(t, "checks that pass", func() error {
		var checks map[string]struct{ ServiceID, Status, Output string }
		if err := c.Do("GET", "/v1/agent/checks", nil, &checks); err != nil {
			return err
		}
		for _, k := range checks {
			if k.Status != "passing" {
				return fmt.Errorf("%s: %s %q", k.ServiceID, k.Status, k.Output)
			}
		}
		return nil
	})
}

// called is how a sidecar's Envoy calls what leads to its upstreams, who has to answer there, and where they are reached. It is to be what Consul's own
// control plane makes of the same registration, but for how the clusters find it.
func called(t *testing.T, car *meshtest.Sidecar) map[string]string {
	t.Helper()
	type validation struct {
		Names []struct{ Matcher struct{ Exact string } } `json:"match_typed_subject_alt_names"`
	}
	type routes struct {
		Name  string
		Hosts []struct {
			Routes []struct{ Route struct{ Cluster string } }
		} `json:"virtual_hosts"`
	}
	var dump struct {
		Configs []struct {
			Listeners []struct {
				State struct {
					Listener struct {
						Name   string
						Chains []struct {
							Filters []struct {
								Config struct {
									StatPrefix string `json:"stat_prefix"`
									Cluster    string
									Routes     routes `json:"route_config"`
									RDS        struct {
										Name string `json:"route_config_name"`
									}
								} `json:"typed_config"`
							}
						} `json:"filter_chains"`
					}
				} `json:"active_state"`
			} `json:"dynamic_listeners"`
			Clusters []struct {
				Cluster struct {
					Name   string
					Socket struct {
						Config struct {
							SNI    string
							Common struct {
								Inline   validation `json:"validation_context"`
								Combined struct {
									Default validation `json:"default_validation_context"`
								} `json:"combined_validation_context"`
							} `json:"common_tls_context"`
						} `json:"typed_config"`
					} `json:"transport_socket"`
				}
			} `json:"dynamic_active_clusters"`
			Routes []struct {
				Config routes `json:"route_config"`
			} `json:"dynamic_route_configs"`
			Endpoints []struct {
				Config struct {
					Name     string `json:"cluster_name"`
					Locality []struct {
						Endpoints []struct {
							Endpoint struct {
								Address struct {
									Socket struct {
										Address string
										Port    int `json:"port_value"`
									} `json:"socket_address"`
								}
							}
						} `json:"lb_endpoints"`
					} `json:"endpoints"`
				} `json:"endpoint_config"`
			} `json:"dynamic_endpoint_configs"`
		}
	}
	if err := json.Unmarshal([]byte(car.ConfigDump()), &dump); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	led := map[string]string{} // where routes that come by RDS lead, by their name
	for _, c := range dump.Configs {
		for _, r := range c.Routes {
			led[r.Config.Name] = r.Config.Hosts[0].Routes[0].Route.Cluster
		}
	}
	for _, c := range dump.Configs {
		for _, l := range c.Listeners {
			listener := l.State.Listener
			if strings.HasPrefix(listener.Name, "public_listener:") || len(listener.Chains) == 0 {
				continue
			}
			f := listener.Chains[0].Filters[0].Config
			cluster := cmp.Or(f.Cluster, led[f.RDS.Name])
			for _, h := range f.Routes.Hosts {
				cluster = h.Routes[0].Route.Cluster
			}
			out["listener "+listener.Name] = f.StatPrefix + " to " + cluster
		}
		for _, k := range c.Clusters {
			tls := k.Cluster.Socket.Config
			names := slices.Concat(tls.Common.Inline.Names, tls.Common.Combined.Default.Names)
			if k.Cluster.Name != "local_app" {
				out["cluster "+k.Cluster.Name] = fmt.Sprintf("%s, answered by %v", tls.SNI, names)
			}
		}
		for _, e := range c.Endpoints {
			name, _, ok := strings.Cut(e.Config.Name, ".internal.")
			var where []string
			for _, l := range e.Config.Locality {
				for _, p := range l.Endpoints {
					a := p.Endpoint.Address.Socket
					where = append(where, net.JoinHostPort(a.Address, strconv.Itoa(a.Port)))
				}
			}
			if slices.Sort(where); ok {
				out["endpoints of "+name] = strings.Join(where, " ")
			}
		}
	}
	return out
}
