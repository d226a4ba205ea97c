package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// targets gives one of the clusters that web is to have other targets and endpoints, or makes it plain again, as the next publication does, too.
func (w *world) targets(s step) {
	for _, n := range w.m.server.sessionsOf(proxyID("web")) {
		n.mu.Lock()
		t := n.target
		n.mu.Unlock()
		if !t.whole() {
			continue
		}
		name := fmt.Sprintf("up-%d.default.dc1.internal.%s", s.N%4, trustDomain)
		c, l := t.resources[clusters].Get(name), t.resources[endpoints].Get(name)
		if c == nil || l == nil {
			continue
		}
		if w.plain[name] == nil || isPlain(c) {
			m := unpacked(w.m.t, c, &clusterv3.Cluster{})
			if !isPlain(c) {
				m.TransportSocketMatches, m.TransportSocket = nil, socketOf(w.m.t, m.GetTransportSocket(), name[:4])
			}
			w.plain[name] = packedAs(w.m.t, name, m)
		}
		changed := *t
		var levels []level
		var targets []string
		for i, target := range s.Targets {
			targets = append(targets, target)
			levels = append(levels, level{target, []int{1 + s.N%3, 10 + i}})
		}
		if s.Allow && len(levels) > 1 { // a socket without endpoints
			levels = levels[1:]
		}
		changed.resources[clusters] = t.resources[clusters].With(formP(w.m.t, w.plain[name], targets...))
		if len(s.Targets) == 0 {
			changed.resources[clusters] = t.resources[clusters].With(w.plain[name])
			levels = []level{{"", []int{1 + s.N%3}}}
		}
		changed.resources[endpoints] = t.resources[endpoints].With(lists(w.m.t, name, levels...))
		n.set(&changed, time.Now(), 0)
	}
	if s.Wait {
		synctest.Wait()
	}
}

// undialled says which endpoints of r would be of a target for which Envoy has no socket; empty: none. A cluster takes the place of the one
// before, which is active until then, when it has endpoints.
func (w *world) undialled(k kind, list *discoveryv3.Resource) string {
	if k != endpoints {
		return ""
	}
	newest := w.envoy.Resource(clusters.url(), list.GetName())
	before := w.active[list.GetName()]
	w.active[list.GetName()] = newest
	for _, c := range []*discoveryv3.Resource{before, newest} {
		if c == nil {
			continue
		}
		dialled := strings.Fields(says(w.m.t, c))[1:]
		for _, endpoint := range strings.Fields(says(w.m.t, list))[1:] {
			target, _, _ := strings.Cut(endpoint, ":")
			if target == "" {
				target = "plain"
			}
			if !slices.Contains(dialled, target) {
				return fmt.Sprintf("%s: %q has no socket for %q", list.GetName(), says(w.m.t, c), says(w.m.t, list))
			}
		}
	}
	return ""
}
