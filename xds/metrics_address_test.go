package xds

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/types/known/structpb"
)

// Where an Envoy has its metrics only a new start can change: the status names one whose address
// changed under it, came or was taken away.
func TestMetricsAddress(t *testing.T) {
	for name, c := range map[string]struct {
		started any // what the node says
		want    string
		warning []string
	}{
		"the same":            {"127.0.0.1:9102", "127.0.0.1:9102", nil},
		"none":                {"", "", nil},
		"another":             {"127.0.0.1:9102", "127.0.0.1:9103", []string{"its metrics are at 127.0.0.1:9102 still, though envoy_prometheus_bind_addr says 127.0.0.1:9103: start its Envoy anew"}},
		"new":                 {"", "127.0.0.1:9103", []string{"it has no metrics at 127.0.0.1:9103 yet, which envoy_prometheus_bind_addr says: start its Envoy anew"}},
		"gone":                {"127.0.0.1:9102", "", []string{"its metrics are still open at 127.0.0.1:9102, though envoy_prometheus_bind_addr is gone: start its Envoy anew"}},
		"an older release's":  {nil, "127.0.0.1:9103", nil},
		"what is no address":  {"\x1b[31m", "127.0.0.1:9103", nil},
		"what is no text":     {7, "127.0.0.1:9103", nil},
		"taken from metadata": {"[::1]:9102", "[::1]:9102", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t, patient())
				m.service("web", catalog.TCP).Bootstrap.PrometheusBindAddr = c.want
				m.publish()
				n := node("web")
				if c.started != nil {
					v, err := structpb.NewValue(c.started)
					if err != nil {
						t.Fatal(err)
					}
					n.Metadata.Fields[identity.MetadataKey].GetStructValue().Fields[identity.MetadataMetrics] = v
				}
				m.open(as("web"), n).subscribe(clusters)
				synctest.Wait()
				p, _ := m.server.Proxy(proxyID("web"))
				if diff := cmp.Diff(c.warning, p.Warnings); diff != "" {
					t.Errorf("warnings (-want +got):\n%s", diff)
				}
			})
		})
	}
}
