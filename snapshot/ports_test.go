package snapshot_test

import (
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
)

// TestClosed: a proxy whose public listener is refused has all but that, who may connect included.
func TestClosed(t *testing.T) {
	upstreams := 0
	for name, in := range inputs(t) {
		in.Envoy = newest
		open := build(t, in)
		view, proxy := *in.ProxyView, *in.Proxy
		proxy.Inbound.Closed = "its port is another's"
		view.Proxy, in.ProxyView = &proxy, &view
		closed := build(t, in)
		for _, r := range closed.ByType[listeners] {
			if strings.HasPrefix(r.GetName(), "public_listener") || open.ByType[listeners].Get(r.GetName()) != r && open.ByType[listeners].Get(r.GetName()).GetVersion() != r.GetVersion() {
				t.Errorf("%s: closed, it has %s", name, r.GetName())
			}
		}
		if len(closed.ByType[listeners]) != len(open.ByType[listeners])-1 || closed.Inbound != "" {
			t.Errorf("%s: closed, it has %d listeners, and %q for other proxies; open, it has %d", name, len(closed.ByType[listeners]), closed.Inbound, len(open.ByType[listeners]))
		}
		if len(closed.Judges) == 0 || len(closed.Secrets) != len(open.Secrets) {
			t.Errorf("%s: closed, it has %d judges and %d secrets", name, len(closed.Judges), len(closed.Secrets))
		}
		upstreams += len(in.Proxy.Upstreams)
	}
	if upstreams == 0 {
		t.Error("no proxy has an upstream: nothing was shown")
	}
}

// TestExclusivePorts: an Envoy whose bootstrap does not say that its ports are its own is not told
// so, as it would refuse that of a listener that it has; all others are, of each port.
func TestExclusivePorts(t *testing.T) {
	seen := map[bool]int{}
	for name, in := range inputs(t) {
		for _, exclusive := range []bool{true, false} {
			in.Envoy = newest
			in.Envoy.ExclusivePorts = exclusive
			r := build(t, in)
			for _, res := range r.ByType[listeners] {
				l := resource(t, r, listeners, res.GetName(), &listenerv3.Listener{})
				want := exclusive && l.GetAddress().GetPipe() == nil
				if got := l.GetEnableReusePort() != nil && !l.GetEnableReusePort().GetValue(); got != want || !want && l.GetEnableReusePort() != nil {
					t.Errorf("%s: %s with exclusive ports %v: enable_reuse_port %v", name, res.GetName(), exclusive, l.GetEnableReusePort())
				}
				seen[want]++
			}
		}
	}
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("seen %v: not all was shown", seen)
	}
}
