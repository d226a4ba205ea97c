package snapshot_test

import (
	"strings"
	"testing"
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
