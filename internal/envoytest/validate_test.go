package envoytest

import (
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestValidate(t *testing.T) {
	for _, version := range []string{Oldest, Newest} {
		good := &clusterv3.Cluster{Name: "a", ConnectTimeout: durationpb.New(1)}
		old := &clusterv3.Cluster{Name: "a", DnsRefreshRate: durationpb.New(5e9), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}}
		if err := Validate(t, version, static(good)); err != nil {
			t.Errorf("a good bootstrap: %v", err)
		}
		if err := Validate(t, version, static(&clusterv3.Cluster{})); err == nil {
			t.Errorf("Envoy %s took a cluster without a name", version)
		}
		if err := Validate(t, version, static(old)); err == nil {
			t.Errorf("Envoy %s took a deprecated field without a word, or its word was not understood", version)
		}
	}
}

func static(c *clusterv3.Cluster) *bootstrapv3.Bootstrap {
	return &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{c}}}
}
