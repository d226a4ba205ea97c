package xds

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/types/known/structpb"
)

// TestPlaced: where an Envoy runs is told for each stream that is let in, with whether it is the
// proxy's only one.
func TestPlaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type call struct {
			Proxy identity.ProxyID
			At    Place
			Alone bool
		}
		var got []call
		cfg := patient()
		cfg.Placed = func(id identity.ProxyID, at Place, alone bool) { got = append(got, call{id, at, alone}) }
		m := start(t, cfg)
		m.service("web", catalog.TCP)
		m.publish()
		for _, network := range []any{"net:[7]", 7, nil} {
			n := node("web")
			ours := n.Metadata.Fields[identity.MetadataKey].GetStructValue().Fields
			if network != nil {
				v, err := structpb.NewValue(network)
				if err != nil {
					t.Fatal(err)
				}
				ours[identity.MetadataNetwork], ours[identity.MetadataAdmin] = v, structpb.NewStringValue("127.0.0.1:19000")
			}
			m.open(as("web"), n).subscribe(clusters)
			synctest.Wait()
		}
		m.open(as("other"), node("web")).subscribe(clusters) // who is not let in
		synctest.Wait()
		want := []call{
			{proxyID("web"), Place{"net:[7]", "127.0.0.1:19000"}, true},
			{proxyID("web"), Place{"", "127.0.0.1:19000"}, false},
			{proxyID("web"), Place{}, false},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}
