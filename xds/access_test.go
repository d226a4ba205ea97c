package xds

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestWhoMayOpenAStream(t *testing.T) {
	for name, tt := range map[string]struct {
		ctx    context.Context
		node   *corev3.Node
		code   codes.Code
		reason string
	}{
		"no token":           {context.Background(), node("web"), codes.PermissionDenied, rejectedDenied},
		"another's node":     {as("web"), node("api"), codes.PermissionDenied, rejectedNode},
		"no node":            {as("web"), nil, codes.PermissionDenied, rejectedNode},
		"a node without ID":  {as("web"), &corev3.Node{Cluster: "web"}, codes.PermissionDenied, rejectedNode},
		"an empty node name": {metadata.AppendToOutgoingContext(context.Background(), "proxy", ""), &corev3.Node{}, codes.PermissionDenied, rejectedDenied},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t, patient())
				twoServices(m)
				c := m.open(tt.ctx, tt.node)
				c.subscribe(secrets, "leaf/web", "leaf/api", "roots")
				c.ends(tt.code)
				if n := metric(t, m, "sallyport_xds_streams_rejected_total", tt.reason); n != 1 {
					t.Errorf("streams rejected as %q: %v, want 1", tt.reason, n)
				}
			})
		})
	}
}

// Why a proxy of the catalog has no stream is in its status; what others call themselves is not
// remembered.
func TestRejectionInStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		for _, who := range []string{"web", "nobody"} {
			c := m.open(context.Background(), node(who))
			c.subscribe(secrets, "roots")
			c.ends(codes.PermissionDenied)
		}
		p, _ := m.server.Proxy(proxyID("web"))
		if r := p.LastRejection; r == nil || r.Reason != "no token" || !r.Time.Equal(time.Now()) {
			t.Errorf("LastRejection = %+v, want that there was no token", r)
		}
		if p, _ := m.server.Proxy(proxyID("api")); p.LastRejection != nil {
			t.Errorf("LastRejection of another proxy = %+v", p.LastRejection)
		}
		if n := len(m.server.proxies); n != 1 {
			t.Errorf("%d proxies are remembered, want 1", n)
		}
		m.stream("web").subscribe(secrets, "roots")
		synctest.Wait()
		if p, _ := m.server.Proxy(proxyID("web")); p.LastRejection != nil {
			t.Errorf("LastRejection = %+v although its last stream was let in", p.LastRejection)
		}
	})
}

func TestNodeIsPinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c := m.stream("web")
		c.subscribe(secrets, "roots")
		c.accept("secret roots")
		c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secrets.url(), Node: node("web"), ResourceNamesSubscribe: []string{"roots"}}))
		c.accept("secret roots")
		c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secrets.url(), Node: node("api"), ResourceNamesSubscribe: []string{"leaf/api", "leaf/web"}}))
		c.ends(codes.PermissionDenied)
	})
}

// No request makes a stream say anything of another service's secrets, or all there are.
func TestNoSecretLeaves(t *testing.T) {
	for name, names := range map[string][]string{
		"another's":      {"leaf/api", "peers/api"},
		"the wildcard":   {"*"},
		"nothing":        {},
		"a glob":         {"leaf/*"},
		"all of them":    {"*", "leaf/api", "", "leaf/", "spiffe://" + trustDomain + "/ns/default/dc/dc1/svc/api"},
		"by another URL": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t, patient())
				twoServices(m)
				other := m.stream("api")
				other.subscribe(secrets, "leaf/api")
				other.accept("secret leaf/api")
				c := m.stream("web")
				if name == "by another URL" {
					c.must(c.s.Subscribe(strings.ToUpper(secrets.url()), "leaf/web"))
					c.must(c.s.Subscribe("", "leaf/web"))
					c.must(c.s.Subscribe("type.googleapis.com/envoy.service.runtime.v3.Runtime", "leaf/web"))
				} else {
					c.must(c.s.Subscribe(secrets.url(), names...))
					c.must(c.s.Subscribe(secrets.url(), names...))
				}
				c.silence()
				c.subscribe(secrets, "leaf/web") // and the stream goes on
				c.accept("secret leaf/web")
				c.silence()
			})
		})
	}
	t.Run("everything else", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := start(t, patient())
			twoServices(m)
			c := m.stream("web")
			for _, k := range []kind{endpoints, extensions, routes} {
				c.subscribe(k)
				c.subscribe(k, "*")
			}
			c.silence()
			if n := metric(t, m, "sallyport_xds_requests_refused_total", refusedWildcard); n != 3 {
				t.Errorf("%v wildcards counted, want 3", n)
			}
		})
	})
}

func TestRequestsThatAreRefused(t *testing.T) {
	many := func(n int) []string {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("name-%d", i)
		}
		return names
	}
	versions := map[string]string{}
	for _, n := range many(maxNames + 1) {
		versions[n] = "1"
	}
	for name, tt := range map[string]struct {
		q      *discoveryv3.DeltaDiscoveryRequest
		reason string
	}{
		"unknown type":            {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.service.runtime.v3.Runtime"}, refusedType},
		"no type":                 {&discoveryv3.DeltaDiscoveryRequest{}, refusedType},
		"too many names":          {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secrets.url(), ResourceNamesSubscribe: append(many(maxNames), "roots")}, refusedNames},
		"too many to unsubscribe": {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secrets.url(), ResourceNamesUnsubscribe: many(maxNames + 1)}, refusedNames},
		"too many held":           {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secrets.url(), InitialResourceVersions: versions}, refusedNames},
		"a long name":             {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secrets.url(), ResourceNamesSubscribe: []string{"roots", strings.Repeat("x", maxNameLength+1)}}, refusedNames},
		"a long version":          {&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secrets.url(), InitialResourceVersions: map[string]string{"roots": strings.Repeat("x", maxNameLength+1)}}, refusedNames},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t, patient())
				twoServices(m)
				c := m.stream("web")
				c.must(c.s.Send(tt.q))
				c.silence()
				if n := metric(t, m, "sallyport_xds_requests_refused_total", tt.reason); n != 1 {
					t.Errorf("requests refused for their %s: %v, want 1", tt.reason, n)
				}
				c.subscribe(secrets, "roots") // and the stream goes on
				c.accept("secret roots")
			})
		})
	}
	t.Run("too many in all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := start(t, patient())
			twoServices(m)
			c := m.stream("web")
			c.subscribe(secrets, many(maxNames)...)
			synctest.Wait()
			c.subscribe(secrets, "roots")
			c.silence()
			c.must(c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secrets.url(), ResourceNamesUnsubscribe: many(1)}))
			synctest.Wait()
			c.subscribe(secrets, "roots")
			c.accept("secret roots")
		})
	})
}

func TestProxyLeavesTheCatalog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		c, other := m.stream("web"), m.stream("api")
		c.configure()
		other.subscribe(secrets, "leaf/api")
		other.accept("secret leaf/api")
		m.contents.Proxies = m.contents.Proxies[1:]
		m.publish()
		c.ends(codes.PermissionDenied)
		other.silence()
		if n := metric(t, m, "sallyport_xds_streams_rejected_total", rejectedGone); n != 1 {
			t.Errorf("%v streams counted as gone, want 1", n)
		}
		c = m.stream("web") // and waits, should it come back
		c.subscribe(secrets, "leaf/web")
		c.silence()
	})
}

func TestTooManyStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		var open []*talk
		for range maxStreams {
			c := m.stream("web")
			c.subscribe(secrets, "roots")
			c.accept("secret roots")
			open = append(open, c)
		}
		c := m.stream("web")
		c.subscribe(secrets, "roots")
		c.ends(codes.ResourceExhausted)
		other := m.stream("api")
		other.subscribe(secrets, "leaf/api")
		other.accept("secret leaf/api")
		open[0].s.Close()
		synctest.Wait()
		c = m.stream("web")
		c.subscribe(secrets, "roots")
		c.accept("secret roots")
	})
}

func TestSilentStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		c := m.stream("web")
		time.Sleep(firstRequest + time.Second)
		c.ends(codes.DeadlineExceeded)
	})
}

// Each stream's leaf is fetched with the token that the stream was opened with.
func TestLeafIsTheCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		var leafs []string
		for _, token := range []string{"one", "two"} {
			c := m.open(metadata.AppendToOutgoingContext(as("web"), "token", token), node("web"))
			c.subscribe(secrets, "leaf/web")
			leafs = append(leafs, c.accept("secret leaf/web").GetResources()[0].GetVersion())
			c.silence()
		}
		if leafs[0] == leafs[1] {
			t.Error("two tokens share a leaf")
		}
		if log := m.logs.String(); strings.Contains(log, "one") || strings.Contains(log, "PRIVATE KEY") {
			t.Errorf("log:\n%s", log)
		}
	})
}

func TestStateOfTheWorldIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(m.conn).StreamAggregatedResources(as("web"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		if want := "set api_type DELTA_GRPC"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	})
}

// An Envoy that answers nothing loses its stream, and delays nobody meanwhile.
func TestEnvoyThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{})
		twoServices(m)
		slow, quick := m.stream("web"), m.stream("web")
		slow.subscribe(secrets, "leaf/web", "roots")
		slow.expect("secret leaf/web")
		quick.subscribe(secrets, "leaf/web", "roots")
		quick.accept("secret leaf/web")
		quick.accept("secret roots")
		for range 20 {
			time.Sleep(defaultStallTimeout / 20)
			m.certs.rotate()
			quick.accept("secret leaf/web")
		}
		time.Sleep(defaultStallTimeout / 4)
		slow.ends(codes.DeadlineExceeded)
		quick.silence()
	})
}

// An Envoy that does not read, with more to read than the connection holds, blocks Send.
func TestEnvoyThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Config{})
		upstreams := make([]string, 400)
		for i := range upstreams {
			upstreams[i] = fmt.Sprintf("upstream-%d", i)
		}
		m.service("big", catalog.TCP, upstreams...)
		m.service("web", catalog.TCP)
		m.publish()
		quick := m.stream("web")
		quick.subscribe(secrets, "leaf/web")
		quick.accept("secret leaf/web")

		// Nothing is read from this stream, so gRPC grants no more than its first window.
		ctx, cancel := context.WithCancel(as("big"))
		defer cancel()
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(m.conn).DeltaAggregatedResources(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i, k := range []kind{clusters, listeners, endpoints, secrets} {
			q := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.url()}
			if i == 0 {
				q.Node = node("big")
			}
			for _, u := range upstreams {
				if k == endpoints {
					q.ResourceNamesSubscribe = append(q.ResourceNamesSubscribe, u+".default.dc1.internal."+trustDomain)
				}
			}
			if err := stream.Send(q); err != nil {
				t.Fatal(err)
			}
		}
		for range 80 {
			time.Sleep(time.Second)
			m.certs.rotate()
			quick.accept("secret leaf/web")
		}
		synctest.Wait()
		if p, _ := m.server.Proxy(proxyID("big")); p.Connected {
			t.Error("the stream is still there")
		}
		if n := metric(t, m, "sallyport_xds_streams_rejected_total", rejectedStalled); n != 1 {
			t.Errorf("%v streams counted as stalled, want 1", n)
		}
	})
}

// When the control plane ends, so do the streams, with a status that makes Envoy come back.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		open := []*talk{m.stream("web"), m.stream("api"), m.stream("web")}
		for i, name := range []string{"leaf/web", "leaf/api"} {
			open[i].subscribe(secrets, name)
			open[i].accept("secret " + name)
		}
		synctest.Wait() // the third has not said whose it is
		if err := m.server.Run(t.Context()); err == nil {
			t.Error("a second Run was no error")
		}
		m.cancel()
		time.Sleep(time.Second)
		for _, c := range open {
			c.ends(codes.Unavailable)
		}
		m.stream("web").ends(codes.Unavailable)
	})
}

func TestNewRefuses(t *testing.T) {
	views, credentials := &latest.Value[*catalog.View]{}, &sds.Credentials{}
	for name, cfg := range map[string]Config{
		"no views":       {Credentials: credentials, Authorize: byMetadata{}.Stream},
		"no credentials": {Views: views, Authorize: byMetadata{}.Stream},
		"no authorizer":  {Views: views, Credentials: credentials},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestNoEnvoy demands that nobody is served who does not call itself an Envoy, by whatever variant
// it asks, that it is told so, and that this is counted, logged and in the status.
func TestNoEnvoy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		for _, agent := range []string{"", "gRPC Go", "Envoy", "envoyproxy"} {
			n := node("web")
			n.UserAgentName = agent
			c := m.open(as("web"), n)
			c.subscribe(clusters)
			c.ends(codes.PermissionDenied)
		}
		p, _ := m.server.Proxy(proxyID("web"))
		if r := p.LastRejection; r == nil || !strings.Contains(r.Reason, "only Envoys are served") {
			t.Errorf("LastRejection = %+v, want that only Envoys are served", r)
		}
		all, err := discoveryv3.NewAggregatedDiscoveryServiceClient(m.conn).StreamAggregatedResources(as("web"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := all.Recv(); status.Code(err) != codes.Unimplemented {
			t.Errorf("the state-of-the-world variant: %v", err)
		}
		if r := m.server.Refusals(); r.Count != 5 || r.Last == nil || !strings.Contains(r.Last.Reason, "state-of-the-world") {
			t.Errorf("refusals: %+v", r)
		}
		for reason, want := range map[string]float64{rejectedAgent: 4, rejectedVariant: 1} {
			if n := metric(t, m, "sallyport_xds_streams_rejected_total", reason); n != want {
				t.Errorf("streams rejected as %q: %v, want %v", reason, n, want)
			}
		}
	})
}

// TestRefusalsAreNotAllLogged demands that the log does not grow with those who are refused, that
// one peer does not keep others out of it, and that it says how many were left out.
func TestRefusalsAreNotAllLogged(t *testing.T) {
	var r refusals
	now := time.Unix(1_000_000, 0)
	logged := map[string]int{}
	add := func(peer string) (left uint64) {
		log, left := r.add(RefusedPeer{Rejection: Rejection{Time: now}, Peer: peer})
		if log {
			logged[peer]++
		}
		return left
	}
	for range 1000 {
		add("uid 1")
	}
	add("uid 2")
	for i := range 100 {
		add(fmt.Sprint("10.0.0.", i))
	}
	all := 0
	for _, n := range logged {
		all += n
	}
	if logged["uid 1"] != refusalsPerSecondPeer || logged["uid 2"] != 1 || all != refusalsPerSecond {
		t.Errorf("logged %v", logged)
	}
	now = now.Add(time.Second)
	// What was left out before somebody else was logged has been said then.
	if left := add("uid 3"); left != 94 {
		t.Errorf("%d are said to be left out, want 94", left)
	}
	if r.sum.Count != 1102 {
		t.Errorf("counted %d", r.sum.Count)
	}
}
