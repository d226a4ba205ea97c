package snapshot_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const foreignID = identity.ID("spiffe://td-b.example/ns/prod/sa/foreign")

var tdB = spiffeid.RequireTrustDomainFromString("td-b.example")

// federatedScope is that of a mesh that has the bundle of td-b.example.
func federatedScope(def intention.Action) intention.Scope {
	return intention.Scope{
		TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Federated: []spiffeid.TrustDomain{tdB}, Datacenters: []string{"dc1"}, Default: def,
	}
}

// federated are intentions of api that allow web, and a workload of another trust domain.
func federated() []intention.Intention {
	api := identity.NewName("api")
	return []intention.Intention{
		{Source: intention.Source{Name: identity.NewName("web")}, Destination: api, Action: intention.Allow},
		{Source: intention.Source{ID: foreignID}, Destination: api, Action: intention.Allow},
	}
}

// presented is a certificate of the table of two trust domains, with what becomes of it where the handshake has roots for each
// domain, where it has all in one pool, and in what is made here.
type presented struct {
	name                      string
	chain                     *tls.Certificate // nil: none
	validator, pooled, wanted bool
}

// certificates are the rows of that table.
func certificates(t testing.TB, a, b *testca.Pair) (rows []presented) {
	t.Helper()
	intermediate := func(parent *testca.Pair, template x509.Certificate) *testca.Pair {
		template.IsCA, template.KeyUsage, template.MaxPathLenZero = true, x509.KeyUsageCertSign, true
		return testca.Sign(t, &template, parent)
	}
	named := func(cn string) x509.Certificate { return x509.Certificate{Subject: pkix.Name{CommonName: cn}} }
	aInt, bInt := intermediate(a, named("A int")), intermediate(b, named("B int"))
	posing := named("A int")
	posing.URIs = []*url.URL{{Scheme: "spiffe", Host: trustDomain}}
	bAsA := intermediate(b, posing)
	narrow := named("B int for A")
	narrow.PermittedURIDomains, narrow.PermittedDNSDomainsCritical = []string{trustDomain}, true
	bForA := intermediate(b, narrow)
	stranger := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "stranger"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	// The names and keys of root roots, signed by another.
	cross := func(root, by *testca.Pair) *testca.Pair {
		template := &x509.Certificate{Subject: root.Cert.Subject, SubjectKeyId: root.Cert.SubjectKeyId, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
		return testca.SignKey(t, template, root.Key, by)
	}
	leaf := func(by *testca.Pair, change func(*x509.Certificate), above []*testca.Pair, uris ...string) *tls.Certificate {
		template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
		for _, u := range uris {
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			template.URIs = append(template.URIs, parsed)
		}
		if change != nil {
			change(template)
		}
		der, key := testca.SignDER(t, template, by)
		c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		for _, p := range above {
			c.Certificate = append(c.Certificate, p.Cert.Raw)
		}
		return c
	}
	of := func(pairs ...*testca.Pair) []*testca.Pair { return pairs }
	web, other, foreign, foreignOther := serviceURI("web"), serviceURI("other"), string(foreignID), "spiffe://td-b.example/ns/prod/sa/other"
	add := func(name string, c *tls.Certificate, validator, pooled, wanted bool) {
		rows = append(rows, presented{name, c, validator, pooled, wanted})
	}
	add("A/web by A", leaf(aInt, nil, of(aInt), web), true, true, true)
	add("B/foreign by B", leaf(bInt, nil, of(bInt), foreign), true, true, true)
	add("A/web by B", leaf(bInt, nil, of(bInt), web), false, true, false)
	add("A/web by B's root itself", leaf(b, nil, nil, web), false, true, false)
	add("A/web by B's intermediate that calls itself A's", leaf(bAsA, nil, of(bAsA), web), false, true, false)
	add("A/web by B, with A's intermediate in the chain", leaf(bInt, nil, of(bInt, aInt), web), false, true, false)
	add("A/web by B, with A's root signed by B", leaf(bInt, nil, of(bInt, cross(a, b)), web), false, true, false)
	add("A/web by B's CA for names of A", leaf(bForA, nil, of(bForA), web), false, true, false)
	add("B/foreign by A", leaf(aInt, nil, of(aInt), foreign), false, true, false)
	add("A/other by A", leaf(aInt, nil, of(aInt), other), false, false, false)
	add("B/other by B", leaf(bInt, nil, of(bInt), foreignOther), false, false, false)
	add("C by A", leaf(aInt, nil, of(aInt), "spiffe://td-c.example/x"), false, false, false)
	add("A/web by a stranger", leaf(stranger, nil, of(stranger), web), false, false, false)
	add("A/web by itself", leaf(nil, nil, nil, web), false, false, false)
	add("a DNS name by A", leaf(aInt, func(c *x509.Certificate) { c.DNSNames = []string{"web"} }, of(aInt)), false, false, false)
	add("A in capitals by A", leaf(aInt, nil, of(aInt), strings.Replace(web, trustDomain, strings.ToUpper(trustDomain), 1)), false, false, false)
	add("A/web by A, a CA", leaf(aInt, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }, of(aInt), web), false, false, false)
	add("none", nil, false, false, false)
	add("[B/other, A/web] by B", leaf(bInt, nil, of(bInt), foreignOther, web), true, true, false)
	add("[B/foreign, A/web] by B", leaf(bInt, nil, of(bInt), foreign, web), true, true, false)
	add("[A/other, B/foreign] by A", leaf(aInt, nil, of(aInt), other, foreign), true, true, false)
	add("[A/web, B/foreign] by A", leaf(aInt, nil, of(aInt), web, foreign), true, true, false)
	add("[B/other, A/web] by A", leaf(aInt, nil, of(aInt), foreignOther, web), false, true, false)
	// What never to do: A's own CA says that B's may speak for A.
	add("A/web by B, whose root A has signed", leaf(bInt, nil, of(bInt, cross(b, a)), web), true, true, true)
	return rows
}

// TestEnvoyKeepsTrustDomainsApart holds real Envoys to the table of two trust domains: 24 certificates, at what is made for a tcp and an
// http service in each mode, and at three handshakes that are not made, to show what the rules are for, and that the validator's
// other form would be none the better.
func TestEnvoyKeepsTrustDomainsApart(t *testing.T) {
	for version, features := range map[string]snapshot.Features{envoytest.Oldest: oldest, envoytest.Newest: newest} {
		t.Run(version, func(t *testing.T) {
			binary, dir := envoytest.Binary(t, version), socketDir(t)
			app := filepath.Join(dir, "app")
			serve(t, app)
			a := newAuthority(t)
			b := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "B"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
			rows := certificates(t, a.root, b)
			policy := catalogtest.Policy(identity.NewName("api"), federated(), federatedScope(intention.Deny))
			type listener struct {
				name, socket string
				want         func(presented) bool
			}
			wanted := func(p presented) bool { return p.wanted }
			config := &bootstrapv3.Bootstrap{}
			var all []listener
			add := func(name string, in catalog.Inbound, want func(presented) bool, change func(*bootstrapv3.Bootstrap)) {
				in.LocalSocket = app
				input := input(policy, in)
				input.Mesh.Federated, input.Envoy = federatedScope(intention.Deny).Federated, features
				s := withRoots(t, build(t, input), a, snapshot.Trust{TrustDomain: tdB, Roots: b.PEM()})
				if change != nil {
					change(s)
				}
				l := listener{name, filepath.Join(dir, strconv.Itoa(len(all))), want}
				s.StaticResources.Listeners[0].Name, s.StaticResources.Listeners[0].Address = l.socket, pipe(l.socket)
				s.StaticResources.Listeners = append(config.GetStaticResources().GetListeners(), s.StaticResources.Listeners[0])
				config, all = s, append(all, l)
			}
			add("validator alone", catalog.Inbound{}, func(p presented) bool { return p.validator }, func(b *bootstrapv3.Bootstrap) { withoutRules(t, b) })
			add("pooled roots", catalog.Inbound{}, func(p presented) bool { return p.pooled }, func(s *bootstrapv3.Bootstrap) {
				withoutRules(t, s)
				change(t, s, func(m proto.Message) bool {
					c, ok := m.(*tlsv3.CertificateValidationContext)
					if ok {
						c.CustomValidatorConfig = nil
						c.TrustedCa = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: a.root.PEM() + b.PEM()}}
					}
					return ok
				})
			})
			add("trust_bundles alone", catalog.Inbound{}, func(p presented) bool { return p.validator }, func(s *bootstrapv3.Bootstrap) {
				withoutRules(t, s)
				change(t, s, func(m proto.Message) bool {
					v, ok := m.(*tlsv3.SPIFFECertValidatorConfig)
					if ok {
						v.TrustDomains, v.TrustBundles = nil, trustBundles(t, map[string]*x509.Certificate{trustDomain: a.root.Cert, tdB.Name(): b.Cert})
					}
					return ok
				})
			})
			for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP} {
				for _, enforcement := range []catalog.Enforcement{catalog.RBAC, catalog.ExtAuthz, catalog.Both} {
					add(protocol.String()+", "+enforcement.String(), catalog.Inbound{Protocol: protocol, Enforcement: enforcement}, wanted, nil)
				}
			}
			for _, c := range config.StaticResources.Clusters {
				if c.GetName() == identity.XDSCluster {
					c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.GetName(), Endpoints: []*endpointv3.LocalityLbEndpoints{{
						LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: pipe(authorizer(t, dir))}}}},
					}}}
				}
			}
			start(t, binary, dir, config)
			for _, l := range all {
				for _, row := range rows {
					got, err := ask(l.socket, row.chain)
					if err != nil || got != l.want(row) {
						t.Errorf("%s: %s: let in = %t (%v), want %t", l.name, row.name, got, err, l.want(row))
					}
				}
			}
		})
	}
}

// withRoots is static, with the validation context of the inbound listener as it is rendered for these trust domains.
func withRoots(t testing.TB, r *snapshot.Resources, own *authority, others ...snapshot.Trust) *bootstrapv3.Bootstrap {
	t.Helper()
	var cache snapshot.Cache
	b := static(t, r, own)
	change(t, b, func(m proto.Message) bool {
		c, ok := m.(*tlsv3.CommonTlsContext)
		if !ok {
			return false
		}
		for _, s := range r.Secrets {
			if len(s.Federated) == 0 {
				continue
			}
			rendered, err := cache.Validation(s, snapshot.Trust{TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Roots: own.root.PEM(), Depth: 3}, others...)
			if err != nil {
				t.Fatal(err)
			}
			secret := &tlsv3.Secret{}
			if err := rendered.GetResource().UnmarshalTo(secret); err != nil {
				t.Fatal(err)
			}
			c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: secret.GetValidationContext()}
			return true
		}
		t.Fatal("no secret names another trust domain")
		return false
	})
	return b
}

// trustBundles is the roots of each trust domain as the SPIFFE validator takes them in one document.
func trustBundles(t testing.TB, roots map[string]*x509.Certificate) *corev3.DataSource {
	t.Helper()
	documents := map[string]json.RawMessage{}
	for name, root := range roots {
		text, err := spiffebundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(name), []*x509.Certificate{root}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		documents[name] = text
	}
	text, err := json.Marshal(map[string]any{"trust_domains": documents})
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(text)}}
}

func withoutRules(t testing.TB, b *bootstrapv3.Bootstrap) {
	t.Helper()
	change(t, b, func(m proto.Message) bool {
		r, ok := m.(*networkrbacv3.RBAC)
		if ok {
			r.Matcher = nil
		}
		return ok
	})
}

// authorizer runs an ext_authz server for api on a socket until the test ends, and returns its path.
func authorizer(t testing.TB, dir string) string {
	t.Helper()
	scope := federatedScope(intention.Deny)
	contents := catalog.Contents{
		Mesh:  catalog.Mesh{TrustDomain: scope.TrustDomain, Federated: scope.Federated, Datacenter: "dc1", Datacenters: scope.Datacenters, Default: scope.Default},
		Whole: true, Intentions: []*catalog.Destination{{Name: identity.NewName("api"), Intentions: federated()}},
	}
	views := &latest.Value[*catalog.View]{}
	views.Set((&catalog.View{}).Next(contents))
	s, err := authz.New(authz.Config{Views: views, Authorize: func(context.Context) (identity.Caller, error) {
		return identity.Caller{Service: identity.NewName("api")}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "authz")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	s.Register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// ask reports whether the application answers who shows this certificate, whichever roots the server names.
func ask(socket string, chain *tls.Certificate) (bool, error) {
	plain, err := net.DialTimeout("unix", socket, meshtest.Deadline)
	if err != nil {
		return false, err
	}
	if chain == nil {
		chain = &tls.Certificate{}
	}
	c := tls.Client(plain, &tls.Config{
		InsecureSkipVerify:   true, // the server's certificate is no part of this
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return chain, nil },
	})
	defer c.Close()
	status, body, err := roundTrip(c, "/")
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return false, err
	case err != nil || status == http.StatusForbidden:
		return false, nil
	case status == http.StatusOK && body == "application":
		return true, nil
	}
	return false, fmt.Errorf("status %d, %q", status, body)
}
