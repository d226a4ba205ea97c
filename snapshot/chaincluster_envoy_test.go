package snapshot_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestEnvoyValidatesChainClusters has Envoys judge all clusters of the goldens at once.
func TestEnvoyValidatesChainClusters(t *testing.T) {
	ca := newAuthority(t)
	for version, features := range map[string]snapshot.Features{envoytest.Oldest: oldest, envoytest.Newest: newest} {
		t.Run(version, func(t *testing.T) {
			var all *bootstrapv3.Bootstrap
			for name, c := range clusterCases {
				in := c().input(t)
				in.Envoy = features
				b := static(t, build(t, in), ca)
				for _, of := range b.StaticResources.Clusters[1:] { // the first is the control plane's
					of.Name = name + "/" + of.GetName()
					of.GetLoadAssignment().ClusterName = of.GetName()
				}
				b.StaticResources.Listeners = nil
				if all == nil {
					all = b
				} else {
					all.StaticResources.Clusters = append(all.StaticResources.Clusters, b.StaticResources.Clusters[1:]...)
				}
			}
			if err := envoytest.Validate(t, version, all); err != nil {
				t.Error(err)
			}
		})
	}
}

// startInstance runs a sidecar with the identity of a service in a datacenter until the test ends. It says what it is called, and by which
// name it was dialled.
func startInstance(t *testing.T, ca *authority, called, service, datacenter string) catalog.Endpoint {
	t.Helper()
	der, key := ca.sign(func(*x509.Certificate) {}, "spiffe://"+trustDomain+"/ns/default/dc/"+datacenter+"/svc/"+service)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s by %s", called, strings.TrimSuffix(r.TLS.ServerName, "."+trustDomain))
		}),
		ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{
			ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		},
	}
	done := make(chan error, 1)
	go func() { done <- s.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return catalog.Endpoint{Address: "127.0.0.1", Port: uint16(l.Addr().(*net.TCPAddr).Port), Weight: 1, Healthy: true}
}

// chainEnvoy is an Envoy with web's resources, whose endpoints come from files.
type chainEnvoy struct {
	t      *testing.T
	dir    string
	socket string // of the first upstream
}

// startChain runs an Envoy with what is made of m. Each cluster with EDS reads its endpoints from a file.
func startChain(t *testing.T, version string, features snapshot.Features, ca *authority, m chained) *chainEnvoy {
	t.Helper()
	e := &chainEnvoy{t: t, dir: socketDir(t)}
	in := m.input(t)
	in.Envoy = features
	r := build(t, in)
	b := static(t, r, ca)
	for _, c := range b.StaticResources.Clusters {
		if resources := r.ByType[endpoints].Get(c.GetName()); resources != nil {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
			c.LoadAssignment = nil
			c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: &corev3.ConfigSource{
				ResourceApiVersion: corev3.ApiVersion_V3,
				ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{
					Path: e.file(c.GetName()), WatchedDirectory: &corev3.WatchedDirectory{Path: e.dir},
				}},
			}}
		}
	}
	e.write(r, nil)
	for i, l := range b.StaticResources.Listeners {
		if l.GetTrafficDirection() == corev3.TrafficDirection_OUTBOUND && e.socket == "" {
			e.socket = filepath.Join(e.dir, "upstream")
			b.StaticResources.Listeners[i].Address, l.EnableReusePort = pipe(e.socket), nil
		}
	}
	b.StaticResources.Listeners = slices.DeleteFunc(b.StaticResources.Listeners, func(l *listenerv3.Listener) bool { return l.GetAddress().GetPipe() == nil })
	start(t, envoytest.Binary(t, version), e.dir, b)
	return e
}

func (e *chainEnvoy) file(cluster string) string { return filepath.Join(e.dir, cluster[:20]+".pb") }

// write has Envoy read the endpoints of r, of which each assignment is changed before, if change is not nil.
func (e *chainEnvoy) write(r *snapshot.Resources, change func(*endpointv3.ClusterLoadAssignment)) {
	e.t.Helper()
	for _, res := range r.ByType[endpoints] {
		a := resource(e.t, r, endpoints, res.GetName(), &endpointv3.ClusterLoadAssignment{})
		if change != nil {
			change(a)
		}
		packed, err := anypb.New(a)
		if err != nil {
			e.t.Fatal(err)
		}
		b, err := proto.Marshal(&discoveryv3.DiscoveryResponse{TypeUrl: endpoints, Resources: []*anypb.Any{packed}})
		if err != nil {
			e.t.Fatal(err)
		}
		temp := filepath.Join(e.dir, "new")
		if err := os.WriteFile(temp, b, 0o600); err != nil {
			e.t.Fatal(err)
		}
		if err := os.Rename(temp, e.file(res.GetName())); err != nil {
			e.t.Fatal(err)
		}
	}
}

// expect demands that requests come to be answered so, and then that ten are.
func (e *chainEnvoy) expect(what, want string) {
	e.t.Helper()
	ask := func() error {
		c, err := net.DialTimeout("unix", e.socket, meshtest.Deadline)
		if err != nil {
			return err
		}
		defer c.Close()
		status, body, err := roundTrip(c, "/")
		got := body
		if err != nil {
			got = "nothing"
		} else if status != http.StatusOK {
			got = strconv.Itoa(status)
		}
		if got != want {
			return fmt.Errorf("%s: answered by %q, want %q", what, got, want)
		}
		return nil
	}
	meshtest.Await(e.t, what, ask)
	for range 10 {
		if err := ask(); err != nil {
			e.t.Error(err)
		}
	}
}

// TestEnvoyFailsOver holds real Envoys to what is made of chains: who answers by which name, level by level; and that nobody is anybody
// else, not even where the connections to his address are of before.
func TestEnvoyFailsOver(t *testing.T) {
	for version, features := range map[string]snapshot.Features{envoytest.Oldest: oldest, envoytest.Newest: newest} {
		t.Run(version, func(t *testing.T) {
			ca := newAuthority(t)
			v1, v1b, v2 := startInstance(t, ca, "v1", "api", "dc1"), startInstance(t, ca, "v1", "api", "dc1"), startInstance(t, ca, "v2", "api", "dc1")
			here, there := startInstance(t, ca, "other", "other", "dc1"), startInstance(t, ca, "other in dc2", "other", "dc2")
			with := func(of map[string][]catalog.Endpoint) []catalog.Endpoints {
				return []catalog.Endpoints{
					reached("api", "v1", "", of["v1"]...), reached("api", "v2", "", of["v2"]...), reached("other", "", "dc2", of["dc2"]...), reached("other", "", "", of["other"]...),
				}
			}
			type levels = map[string][]catalog.Endpoint
			all := levels{"v1": {v1, v1b}, "v2": {v2}, "dc2": {there}, "other": {here}}
			m := failingOver(catalog.HTTP)
			m.endpoints = with(all)
			e := startChain(t, version, features, ca, m)
			set := func(of levels, change func(*endpointv3.ClusterLoadAssignment)) {
				t.Helper()
				m.endpoints = with(of)
				in := m.input(t)
				in.Envoy = features
				e.write(build(t, in), change)
			}
			const first = "v1 by v1.api.default.dc1.internal"
			e.expect("all are well", first)
			for _, s := range []struct {
				what   string
				levels levels
				want   string
			}{
				{"one of the first level is sick", levels{"v1": {v1, sick(v1b)}, "v2": {v2}, "dc2": {there}, "other": {here}}, first},
				{"the first level is sick", levels{"v1": {sick(v1), sick(v1b)}, "v2": {v2}, "dc2": {there}, "other": {here}}, "v2 by v2.api.default.dc1.internal"},
				{"the first level is back", all, first},
				{"nobody is on the first level", levels{"v2": {v2}, "dc2": {there}, "other": {here}}, "v2 by v2.api.default.dc1.internal"},
				{"nobody is on the first two levels", levels{"dc2": {there}, "other": {here}}, "other in dc2 by other.default.dc2.internal"},
				{"somebody is back on the first level", levels{"v1": {v1b}, "dc2": {there}}, first},
				{"all but the last are sick", levels{"v1": {sick(v1)}, "v2": {sick(v2)}, "dc2": {sick(there)}, "other": {here}}, "other by other.default.dc1.internal"},
				{"all are sick", levels{"v1": {sick(v1)}, "v2": {sick(v2)}, "dc2": {sick(there)}, "other": {sick(here)}}, "503"},
				{"nobody is there", levels{}, "503"},
				{"an address on two levels, well on the second", levels{"v1": {sick(v1)}, "v2": {v1}}, "v1 by v2.api.default.dc1.internal"},
				{"another service's on the first level", levels{"v1": {here}}, "503"},
				{"it is itself", levels{"other": {here}}, "other by other.default.dc1.internal"},
				{"it is another's at once, with connections of before", levels{"v1": {here}, "other": {sick(there)}}, "503"},
				{"it is itself again", levels{"other": {here}}, "other by other.default.dc1.internal"},
				{"another's beside those of its own datacenter", levels{"dc2": {here}}, "503"},
			} {
				set(s.levels, nil)
				e.expect(s.what, s.want)
			}
			set(all, func(a *endpointv3.ClusterLoadAssignment) {
				for _, l := range a.Endpoints {
					for _, x := range l.LbEndpoints {
						x.Metadata = nil
					}
				}
			})
			e.expect("endpoints of no target", "503")
			set(all, nil)
			e.expect("all are well again", first)

			for _, policy := range []string{"ring_hash", "maglev", "least_request", "random"} {
				balanced := m
				balanced.resolvers = slices.Clone(m.resolvers)
				balanced.resolvers[0].LoadBalancer = &chain.LoadBalancer{Policy: policy}
				balanced.endpoints = with(levels{"v2": {v2}, "other": {here}})
				startChain(t, version, features, ca, balanced).expect(policy+", and nobody on the first level, and on one between two", "v2 by v2.api.default.dc1.internal")
			}

			tcp := m
			tcp.protocol, tcp.endpoints = catalog.TCP, with(levels{"v1": {sick(v1)}, "v2": {sick(v2)}, "dc2": {there}})
			startChain(t, version, features, ca, tcp).expect("tcp", "other in dc2 by other.default.dc2.internal")
			tcp.endpoints = with(levels{"v1": {there}})
			startChain(t, version, features, ca, tcp).expect("tcp, another service's", "nothing")
			tcp.resolvers = []chain.Resolver{resolverOf("api", chain.Resolver{Redirect: &chain.Redirect{Service: "other"}})}
			tcp.endpoints = with(levels{"other": {here}})
			startChain(t, version, features, ca, tcp).expect("tcp, redirected", "other by other.default.dc1.internal")

			host := func(e catalog.Endpoint) catalog.Endpoint {
				e.Address = "localhost"
				return e
			}
			m.endpoints = with(levels{"v1": {sick(v1)}, "v2": {sick(host(v2))}, "dc2": {host(there)}, "other": {here}})
			startChain(t, version, features, ca, m).expect("names of hosts", "other in dc2 by other.default.dc2.internal")
			m.endpoints = with(levels{"v2": {host(v2)}, "dc2": {there}})
			startChain(t, version, features, ca, m).expect("names of hosts, none on the first level", "v2 by v2.api.default.dc1.internal")
			m.endpoints = with(levels{"v1": {host(here)}, "other": {host(here)}})
			startChain(t, version, features, ca, m).expect("names of hosts, another service's", "503")
		})
	}
}
