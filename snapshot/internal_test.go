package snapshot

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func testTrustDomain() spiffeid.TrustDomain {
	return spiffeid.RequireTrustDomainFromString("11111111-2222-3333-4444-555555555555.consul")
}

func nameOf(service string) identity.Name { return identity.NewName(service) }

// testRoot is a certificate in PEM for configurations that Envoy only looks at.
func testRoot(t *testing.T) string {
	t.Helper()
	return testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil).PEM()
}

// TestConfigSourceBytes: Envoy tells subscriptions to secrets apart by these bytes. If they change,
// running Envoys have secrets that nobody renews.
func TestConfigSourceBytes(t *testing.T) {
	b, err := marshal(fromADS)
	if err != nil {
		t.Fatal(err)
	}
	// ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3
	if got, want := hex.EncodeToString(b), "220030021a00"; got != want {
		t.Errorf("the ConfigSource is %s, and must be %s for ever", got, want)
	}
}

func TestPackerRemembers(t *testing.T) {
	p := packer{cache: &Cache{}}
	p.any(&tcpv3.TcpProxy{})
	p.resource("local_app", &clusterv3.Cluster{})
	err := p.err()
	if err == nil || !strings.Contains(err.Error(), "TcpProxy") || !strings.Contains(err.Error(), "local_app: Cluster") {
		t.Errorf("err = %v, want both mistakes", err)
	}
}

func TestHashIsOfContent(t *testing.T) {
	p := packer{cache: &Cache{}}
	a := p.resource("a", &clusterv3.Cluster{Name: "a"})
	b := p.resource("a", &clusterv3.Cluster{Name: "a"})
	c := p.resource("a", &clusterv3.Cluster{Name: "b"})
	if a.Version != b.Version || !bytes.Equal(a.Resource.Value, b.Resource.Value) {
		t.Error("equal content, other version")
	}
	if a.Version == c.Version || len(a.Version) != 32 {
		t.Errorf("versions %q and %q of different contents", a.Version, c.Version)
	}
}
