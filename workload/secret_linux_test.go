package workload_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/sallyport/sallyport/identity"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

func secretsOf(t *testing.T, list []*anypb.Any) map[string]*tlsv3.Secret {
	t.Helper()
	out := map[string]*tlsv3.Secret{}
	for _, o := range list {
		s := &tlsv3.Secret{}
		if err := o.UnmarshalTo(s); err != nil {
			t.Fatal(err)
		}
		out[s.GetName()] = s
	}
	return out
}

// certificateOf is the URI SAN of a secret's certificate, whose key has to be its own.
func certificateOf(t *testing.T, s *tlsv3.Secret) string {
	t.Helper()
	c := s.GetTlsCertificate()
	pair, err := tls.X509KeyPair(c.GetCertificateChain().GetInlineBytes(), c.GetPrivateKey().GetInlineBytes())
	if err != nil {
		t.Fatal(err)
	}
	if len(pair.Certificate) != 2 || len(pair.Leaf.URIs) != 1 {
		t.Fatalf("%d certificates, %d URI SANs", len(pair.Certificate), len(pair.Leaf.URIs))
	}
	if block, _ := pem.Decode(c.GetPrivateKey().GetInlineBytes()); block.Type != "PRIVATE KEY" {
		t.Errorf("the key is a %s", block.Type)
	}
	return pair.Leaf.URIs[0].String()
}

// rootsOf are the roots of a validation context, and whether they are in the SPIFFE validator.
func rootsOf(t *testing.T, s *tlsv3.Secret) (n int, spiffe bool) {
	t.Helper()
	text := s.GetValidationContext().GetTrustedCa().GetInlineBytes()
	if custom := s.GetValidationContext().GetCustomValidatorConfig(); custom != nil {
		config := &tlsv3.SPIFFECertValidatorConfig{}
		if err := custom.GetTypedConfig().UnmarshalTo(config); err != nil {
			t.Fatal(err)
		}
		if custom.GetName() != "envoy.tls.cert_validator.spiffe" || len(config.GetTrustDomains()) != 1 || config.GetTrustDomains()[0].GetName() != domain.Name() {
			t.Errorf("%v", config)
		}
		text, spiffe = config.GetTrustDomains()[0].GetTrustBundle().GetInlineBytes(), true
	}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return n, spiffe
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			t.Fatal(err)
		}
		n, text = n+1, rest
	}
}

// TestSecretNames: each name gives what SPIRE gives by it, by each of the methods.
func TestSecretNames(t *testing.T) {
	h := start(t, time.Hour, nil)
	web := fmt.Sprintf("unix:uid:%d", webUID)
	h.publish(instance("web", "web", web), instance("api", "api", web))
	sds := secretv3.NewSecretDiscoveryServiceClient(h.client(t, webUID))
	ask := func(node *corev3.Node, names ...string) map[string]*tlsv3.Secret {
		t.Helper()
		r, err := sds.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{Node: node, ResourceNames: names, TypeUrl: secretType})
		if err != nil {
			t.Fatal(err)
		}
		return secretsOf(t, r.GetResources())
	}
	for name, want := range map[string]string{"default": uri("api"), uri("web"): uri("web"), uri("api"): uri("api"), "leaf/web": uri("web"), "leaf/api": uri("api")} {
		got := ask(nil, name)
		if len(got) != 1 || certificateOf(t, got[name]) != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	plain, err := structpb.NewStruct(map[string]any{"disable_spiffe_cert_validation": "true"})
	if err != nil {
		t.Fatal(err)
	}
	boolean, err := structpb.NewStruct(map[string]any{"disable_spiffe_cert_validation": true})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ROOTCA", "ALL", domain.IDString()} {
		if n, spiffe := rootsOf(t, ask(nil, name)[name]); n != 1 || !spiffe {
			t.Errorf("%s: %d roots, SPIFFE validator: %v", name, n, spiffe)
		}
		for _, metadata := range []*structpb.Struct{plain, boolean} {
			s := ask(&corev3.Node{Metadata: metadata}, name)[name]
			if n, spiffe := rootsOf(t, s); n != 1 || spiffe || s.GetValidationContext().GetMaxVerifyDepth().GetValue() == 0 {
				t.Errorf("%s: %d roots, SPIFFE validator: %v", name, n, spiffe)
			}
		}
	}
	if n, spiffe := rootsOf(t, ask(nil, "roots")["roots"]); n != 1 || spiffe {
		t.Errorf("roots: %d, SPIFFE validator: %v", n, spiffe)
	}
	all := ask(nil)
	if len(all) != 3 || all[uri("web")] == nil || all[uri("api")] == nil || all[domain.IDString()] == nil {
		t.Errorf("no names: %v", all)
	}
	for _, name := range []string{"other", uri("other"), "leaf/other", "spiffe://other.consul", "", "peers/web", "identities"} {
		r, err := sds.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{ResourceNames: []string{"default", name}})
		if err == nil {
			t.Errorf("%q: %v", name, r)
			continue
		}
		wantStatus(t, err, codes.InvalidArgument, "workload is not authorized for the requested identities", fmt.Sprintf("%q", name))
	}
	_, err = sds.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
	wantStatus(t, err, codes.InvalidArgument)
}

// TestSecretStream: versions and nonces, names that change, a refusal, a rotation, and the end.
func TestSecretStream(t *testing.T) {
	h := start(t, time.Hour, nil)
	web := fmt.Sprintf("unix:uid:%d", webUID)
	h.publish(instance("web", "web", web), instance("api", "api", web))
	stream, err := secretv3.NewSecretDiscoveryServiceClient(h.client(t, webUID)).StreamSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *discoveryv3.DiscoveryRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	receive := func(version string, want ...string) *discoveryv3.DiscoveryResponse {
		t.Helper()
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got := secretsOf(t, r.GetResources())
		for _, name := range want {
			if got[name] == nil {
				t.Errorf("no %s", name)
			}
		}
		if r.GetVersionInfo() != version || len(r.GetNonce()) != 8 || r.GetTypeUrl() != secretType || len(got) != len(want) {
			t.Errorf("version %s, nonce %s, %d secrets; want version %s and %q", r.GetVersionInfo(), r.GetNonce(), len(got), version, want)
		}
		return r
	}
	node := &corev3.Node{Id: strings.Repeat("n", 200<<10)}
	send(&discoveryv3.DiscoveryRequest{Node: node, ResourceNames: []string{"leaf/web"}, TypeUrl: secretType})
	first := receive("1", "leaf/web")
	send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"leaf/web"}, VersionInfo: "1", ResponseNonce: first.GetNonce()})
	send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"leaf/web", "ROOTCA"}, VersionInfo: "1", ResponseNonce: "0badcafe"}) // stale
	send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"leaf/web", "default"}, VersionInfo: "1", ResponseNonce: first.GetNonce()})
	second := receive("2", "leaf/web", "default")
	send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"leaf/web", "default"}, VersionInfo: "1", ResponseNonce: second.GetNonce(), ErrorDetail: &rpcstatus.Status{Message: "no room"}})
	if err := h.secrets.Rotate(identity.NewName("web")); err != nil {
		t.Fatal(err)
	}
	third := receive("3", "leaf/web", "default")
	a, b := secretsOf(t, second.GetResources()), secretsOf(t, third.GetResources())
	if proto.Equal(a["leaf/web"], b["leaf/web"]) || !proto.Equal(a["default"], b["default"]) {
		t.Error("the leaf of web is to be another, and that of api the same")
	}
	for begin := time.Now(); !strings.Contains(h.log.String(), "no room"); time.Sleep(time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatalf("log: %s", h.log)
		}
	}
	if log := h.log.String(); strings.Contains(log, "PRIVATE") {
		t.Errorf("log: %s", log)
	}
	h.publish(instance("api", "api", web))
	_, err = stream.Recv()
	wantStatus(t, err, codes.PermissionDenied, "no identity issued", "leaf/web")
	stranger, err := secretv3.NewSecretDiscoveryServiceClient(h.client(t, otherUID)).StreamSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = stranger.Recv() // it has not said anything
	wantStatus(t, err, codes.PermissionDenied, "no identity issued")
}

// TestDeltaSecrets: a response has what is new, and what is gone.
func TestDeltaSecrets(t *testing.T) {
	h := start(t, time.Hour, nil)
	web := fmt.Sprintf("unix:uid:%d", webUID)
	h.publish(instance("web", "web", web), instance("api", "api", web))
	sds := secretv3.NewSecretDiscoveryServiceClient(h.client(t, webUID))
	open := func(first *discoveryv3.DeltaDiscoveryRequest) (send func(*discoveryv3.DeltaDiscoveryRequest), receive func() (names []string, r *discoveryv3.DeltaDiscoveryResponse)) {
		t.Helper()
		stream, err := sds.DeltaSecrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		send = func(r *discoveryv3.DeltaDiscoveryRequest) {
			t.Helper()
			if err := stream.Send(r); err != nil {
				t.Fatal(err)
			}
		}
		send(first)
		return send, func() (names []string, r *discoveryv3.DeltaDiscoveryResponse) {
			t.Helper()
			r, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range r.GetResources() {
				names = append(names, o.GetName())
			}
			return names, r
		}
	}
	send, receive := open(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: []string{"default", "ROOTCA"}})
	names, first := receive()
	if !slices.Equal(names, []string{"ROOTCA", "default"}) {
		t.Errorf("%q", names)
	}
	send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: first.GetNonce()}) // an ACK
	send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{uri("web")}})
	if names, _ = receive(); !slices.Equal(names, []string{uri("web")}) {
		t.Errorf("%q", names)
	}
	if err := h.secrets.Rotate(identity.NewName("api")); err != nil {
		t.Fatal(err)
	}
	if names, _ = receive(); !slices.Equal(names, []string{"default"}) {
		t.Errorf("after a rotation: %q", names)
	}
	send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{"default", uri("web")}})
	send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"ROOTCA"}}) // once more
	if names, _ = receive(); !slices.Equal(names, []string{"ROOTCA"}) {
		t.Errorf("once more: %q", names)
	}

	// All, with what it has from before.
	version := ""
	for _, o := range first.GetResources() {
		if o.GetName() == "ROOTCA" {
			version = o.GetVersion()
		}
	}
	_, receive = open(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, InitialResourceVersions: map[string]string{"gone": "1", "ROOTCA": version}})
	names, all := receive()
	if !slices.Equal(names, []string{uri("api"), uri("web"), domain.IDString()}) && len(names) != 3 {
		t.Errorf("%q", names)
	}
	if !slices.Equal(all.GetRemovedResources(), []string{"ROOTCA", "gone"}) {
		t.Errorf("removed %q", all.GetRemovedResources())
	}
	h.publish(instance("web", "web", web))
	if names, all = receive(); len(names) != 0 || !slices.Equal(all.GetRemovedResources(), []string{uri("api")}) {
		t.Errorf("%q, removed %q", names, all.GetRemovedResources())
	}
	stream, err := sds.DeltaSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default", "leaf/api"}}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantStatus(t, err, codes.InvalidArgument, "workload is not authorized", "leaf/api")
}

// TestNodesAreNotKept: an Envoy's first request says much of it, and is forgotten.
func TestNodesAreNotKept(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	sds := secretv3.NewSecretDiscoveryServiceClient(h.client(t, webUID))
	node := &corev3.Node{}
	for range 1000 {
		node.Extensions = append(node.Extensions, &corev3.Extension{Name: strings.Repeat("e", 60), Category: strings.Repeat("c", 60)})
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const streams = 60
	before := heap()
	for range streams {
		stream, err := sds.StreamSecrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&discoveryv3.DiscoveryRequest{Node: node, ResourceNames: []string{"ROOTCA"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	// Both ends of the streams are in this process.
	if each := (int64(heap()) - int64(before)) / streams; each > 60<<10 {
		t.Errorf("a stream keeps %d bytes, of which its node is to be none", each)
	} else {
		t.Logf("a stream keeps %d bytes at both ends", each)
	}
}
