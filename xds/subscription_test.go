package xds

import (
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/snapshot"
)

// TestEverything follows the xDS protocol, "How the client specifies what resources to return".
func TestEverything(t *testing.T) {
	type request struct {
		subscribe, unsubscribe []string
		want                   bool
	}
	some := []string{"a"}
	all := []string{"*"}
	for name, requests := range map[string][]request{
		"the first names nothing":              {{want: true}, {want: true}, {unsubscribe: some, want: true}},
		"named later, and still everything":    {{want: true}, {subscribe: some, want: true}, {want: true}, {unsubscribe: some, want: true}},
		"everything is given up, in words":     {{want: true}, {subscribe: some, want: true}, {unsubscribe: all}, {}, {subscribe: some}},
		"given up with the names":              {{want: true}, {subscribe: some, unsubscribe: all}, {}},
		"names first":                          {{subscribe: some}, {}, {subscribe: all, want: true}, {want: true}, {unsubscribe: all}},
		"in words first":                       {{subscribe: all, want: true}, {want: true}, {unsubscribe: all}, {subscribe: all, want: true}},
		"the first only unsubscribes":          {{unsubscribe: some, want: true}},
		"everything and not in one request":    {{subscribe: all, unsubscribe: all}},
		"an unsubscription before any request": {{unsubscribe: all, want: true}},
	} {
		for _, k := range []kind{listeners, clusters, secrets, endpoints, extensions, routes} {
			s := newSubscription(k)
			for n, r := range requests {
				s.update(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: r.subscribe, ResourceNamesUnsubscribe: r.unsubscribe})
				if want := r.want && k.hasWildcard(); s.wildcard != want {
					t.Errorf("%s, %s, request %d: everything is subscribed to = %t, want %t", name, k, n+1, s.wildcard, want)
				}
			}
		}
	}
}

// TestQueueIsBounded demands that a stream whose Envoy answers what it was not sent yet ends,
// rather than grows.
func TestQueueIsBounded(t *testing.T) {
	m := start(t, Config{})
	twoServices(m)
	var ended error
	n := newSession(m.server, identity.Caller{Proxy: proxyID("web")}, snapshot.FeaturesOf(node("web")), func(err error) { ended = err })
	n.target = &target{}
	for range maxQueue + 1 {
		n.queue = append(n.queue, &discoveryv3.DeltaDiscoveryResponse{})
	}
	n.target.resources[clusters] = snapshot.Set{{Name: "a", Version: "1"}}
	n.receive(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: clusters.url()})
	if ended == nil || len(n.queue) > maxQueue+1 {
		t.Errorf("the stream goes on with %d responses in its queue", len(n.queue))
	}
}
