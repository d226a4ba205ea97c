package snapshot

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
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

// TestConfigSourceBytes: Envoy tells subscriptions to secrets apart by these bytes. If they change, running Envoys have secrets that
// nobody renews.
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

// check is what the packer does with every message.
func check(m proto.Message) error {
	b, err := marshal(m)
	if err != nil {
		return err
	}
	return new(schema).check(m, b)
}

func TestCheck(t *testing.T) {
	good := &clusterv3.Cluster{Name: "a", ConnectTimeout: durationpb.New(time.Second)}
	if err := check(good); err != nil {
		t.Errorf("a good cluster: %v", err)
	}
	unknown := &clusterv3.Cluster{Name: "a"}
	unknown.ProtoReflect().SetUnknown([]byte{0xf8, 0xff, 0xff, 0x0f, 0x01})
	for want, m := range map[string]*clusterv3.Cluster{
		"Name":           {},
		"ConnectTimeout": {Name: "a", ConnectTimeout: durationpb.New(-1)},
		"dns_refresh_rate: the field is deprecated": {Name: "a", DnsRefreshRate: durationpb.New(time.Second)},
		"unknown fields": unknown,
	} {
		err := check(m)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check(%v) = %v, want an error with %q", m, err, want)
		}
	}
	// Below the surface, in lists and in messages.
	deep := &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchSubjectAltNames: nil},
			ValidationContextSdsSecretConfig: secret("roots"),
		}},
	}}
	if err := check(deep); err != nil {
		t.Errorf("a good context: %v", err)
	}
	deep.CommonTlsContext.GetCombinedValidationContext().DefaultValidationContext.MatchSubjectAltNames = append(
		deep.CommonTlsContext.GetCombinedValidationContext().DefaultValidationContext.MatchSubjectAltNames, exactly("x"))
	if err := check(deep); err == nil || !strings.Contains(err.Error(), "match_subject_alt_names") {
		t.Errorf("check of a deprecated field within = %v", err)
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
