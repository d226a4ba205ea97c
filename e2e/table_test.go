//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/catalog"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/token"
	"github.com/sallyport/sallyport/xds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
)

// TestDecisionTable holds real Envoys to the table of decisions, in all modes over tcp and http. The table speaks of meshes of several datacenters and
// of intentions that files cannot say, so the control plane is put together here out of its parts, and the catalog is published by hand.
func TestDecisionTable(t *testing.T) {
	t.Parallel()
	cases, err := decisiontable.Load("../intention/testdata/decisions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{meshtest.Version, "1.36.4"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			decisionTable(t, version, cases)
		})
	}
}

// door is a sidecar through which a destination of the table is reached.
type door struct {
	proxy catalog.Proxy
	app   *meshtest.Server
	car   *meshtest.Sidecar
}

func (d door) addr() string { return fmt.Sprintf("127.0.0.1:%d", d.proxy.Inbound.Port) }

// knock dials the sidecar and asks the application for an answer, over http to a request if there is one.
func (d door) knock(c meshtest.Client, request *decisiontable.Request) meshtest.Answer {
	switch {
	case d.proxy.Inbound.Protocol == catalog.HTTP && request != nil:
		w := &wire{client: c, addr: d.addr()}
		defer w.close()
		answer := w.ask(request)
		status, err := strconv.Atoi(answer)
		if err != nil {
			return meshtest.Answer{Err: errors.New(answer)}
		}
		return meshtest.Answer{Status: status}
	case d.proxy.Inbound.Protocol == catalog.HTTP:
		return c.Get(d.addr(), "/")
	}
	return c.Echo(d.addr(), "hello")
}

func decisionTable(t *testing.T, version string, cases []decisiontable.Case) {
	t.Helper()
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: version})
	cp := newControlPlane(t, m, cases[0].Scope.TrustDomain)
	doors := map[identity.Name][]door{}
	for _, c := range cases {
		if doors[c.Destination] == nil {
			doors[c.Destination] = makeDoors(t, m, c.Destination)
		}
	}
	others := otherDomains(t, cases)
	marker := identity.NewName("marker")
	publish := func(n int, c decisiontable.Case) {
		contents := catalogtest.Mesh{
			Mesh:       catalog.Mesh{TrustDomain: c.Scope.TrustDomain, Datacenter: decisiontable.Datacenter, Datacenters: c.Scope.Datacenters, Default: c.Scope.Default},
			Intentions: c.Intentions,
			// So that there is something to send to everybody in every case, and an ACK to wait for.
			Endpoints: []catalog.Endpoints{{Name: marker, List: []catalog.Endpoint{{Address: "127.0.0.1", Port: uint16(n + 1), Weight: 1, Healthy: true}}}},
		}
		for _, all := range doors {
			for _, d := range all {
				contents.Proxies = append(contents.Proxies, d.proxy)
			}
		}
		var roots []*sds.Roots
		for _, td := range c.Scope.Federated {
			roots = append(roots, others[td].roots)
		}
		cp.federated.Set(roots)
		cp.store.Federate(c.Scope.Federated)
		cp.store.Publish(contents.Contents())
	}
	publish(0, cases[0])
	for destination, all := range doors {
		for n, d := range all {
			all[n].car = cp.startEnvoy(t, m, version, destination, d.proxy)
		}
	}

	authority := m.Authority()
	var tried, undecided, wrong atomic.Int64
	for n, c := range cases {
		published := time.Now()
		publish(n+1, c)
		cp.awaitSync(t, published)
		var wg sync.WaitGroup
		for _, d := range doors[c.Destination] {
			wg.Go(func() {
				for _, p := range c.Peers {
					signer := authority
					if other, ok := others[p.By]; ok {
						signer = other.ca
					}
					client := meshtest.Client{Certificate: signer.Issue(t, meshtest.LeafSpec{URIs: p.URIs, DNS: p.DNS, CommonName: p.Subject})}
					before := d.app.Requests.Load() + d.app.Bytes.Load()
					a, tries := d.car.Decided(func() meshtest.Answer { return d.knock(client, p.Request) })
					tried.Add(1)
					undecided.Add(int64(tries - 1))
					reached := d.app.Requests.Load()+d.app.Bytes.Load() != before
					wanted := p.Wants(d.proxy.Inbound.Protocol.L7())
					if want := wanted == intention.Allow; a.Allowed() != want || a.Denied() == want || reached != want {
						wrong.Add(1)
						t.Errorf("%q: %s → %s by %s: %v, reached the application: %v; want %s", c.Name, p, c.Destination, d.proxy.ID, a, reached, wanted)
					}
				}
			})
		}
		wg.Wait()
	}
	figure(t, "cases=%d decisions=%d wrong=%d undecided_and_tried_again=%d", len(cases), tried.Load(), wrong.Load(), undecided.Load())
}

// otherDomain is the CA of another trust domain, and its roots as the mesh knows them.
type otherDomain struct {
	ca    *meshtest.Authority
	roots *sds.Roots
}

// otherDomains are those of the table.
func otherDomains(t *testing.T, cases []decisiontable.Case) map[spiffeid.TrustDomain]otherDomain {
	t.Helper()
	all := map[spiffeid.TrustDomain]otherDomain{}
	for _, c := range cases {
		for _, td := range c.Scope.Federated {
			if _, ok := all[td]; !ok {
				a := meshtest.ForeignAuthority(t, td.Name())
				all[td] = otherDomain{a, sds.NewRoots(td, "", []sds.Root{{ID: td.Name(), Certificate: a.Certificate}})}
			}
		}
		for _, p := range c.Peers {
			if _, ok := all[p.By]; !ok && !p.By.IsZero() && p.By != c.Scope.TrustDomain {
				all[p.By] = otherDomain{ca: meshtest.ForeignAuthority(t, p.By.Name())}
			}
		}
	}
	return all
}

// makeDoors makes a sidecar in every mode over every protocol.
func makeDoors(t *testing.T, m *meshtest.Mesh, destination identity.Name) (all []door) {
	t.Helper()
	for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP} {
		for _, mode := range []catalog.Enforcement{catalog.RBAC, catalog.ExtAuthz, catalog.Both} {
			app := serveEcho(t, "")
			if protocol == catalog.HTTP {
				app = serveHTTP(t, "hello")
			}
			revocation := catalog.NewConnections
			if protocol == catalog.HTTP {
				revocation = catalog.NextRequest
			}
			id := fmt.Sprintf("%s-%s-%s", destination.Service, protocol, mode)
			all = append(all, door{app: app, proxy: catalog.Proxy{
				ID: identity.ProxyID(id), Service: destination, Instance: id, Origin: "table", Bootstrap: catalog.Bootstrap{UID: -1},
				Inbound: catalog.Inbound{
					Address: "127.0.0.1", Port: uint16(m.Port()), LocalAddress: app.Host(), LocalPort: uint16(app.Port()),
					Protocol: protocol, Enforcement: mode, Revocation: revocation,
				},
				Upstreams: []catalog.Upstream{{Destination: identity.NewName("marker"), BindAddress: "127.0.0.1", BindPort: uint16(m.Port())}},
			}})
		}
	}
	return all
}

// controlPlane is a control plane in this process.
type controlPlane struct {
	store  catalog.Store
	xds    *xds.Server
	tokens *token.Issuer
	socket string
	td     spiffeid.TrustDomain
	// federated are the roots of other trust domains.
	federated latest.Value[[]*sds.Roots]
}

func newControlPlane(t *testing.T, m *meshtest.Mesh, td spiffeid.TrustDomain) *controlPlane {
	t.Helper()
	for _, dir := range []string{m.Data, m.Runtime} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(m.Data, "ca"), TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	cp := &controlPlane{socket: filepath.Join(m.Runtime, "xds.sock"), td: td}
	if cp.tokens, err = token.Open(token.Config{File: filepath.Join(m.Data, "token.key"), TrustDomain: td}); err != nil {
		t.Fatal(err)
	}
	authorizer := token.Authorizer{Authority: cp.tokens}
	issuer, err := ca.NewIssuer(ca.IssuerConfig{Provider: authority, TrustDomain: td, TTL: ca.DefaultLeafTTL})
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := sds.New(sds.Config{Source: issuer})
	if err != nil {
		t.Fatal(err)
	}
	if cp.xds, err = xds.New(xds.Config{Views: &cp.store.Views, Credentials: secrets, Authorize: authorizer.Stream, Federated: &cp.federated}); err != nil {
		t.Fatal(err)
	}
	decide, err := authz.New(authz.Config{Views: &cp.store.Views, Told: cp.xds.Told, ToldChanged: cp.xds.ToldChanged, Authorize: authorizer.Call})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", cp.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(xds.ServerOptions()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, cp.xds)
	authv3.RegisterAuthorizationServer(server, decide)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{authority.Run, secrets.Run, cp.xds.Run, func(context.Context) error { return server.Serve(l) }} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("control plane: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		server.Stop()
		wg.Wait()
		if err := authority.Close(); err != nil {
			t.Error(err)
		}
	})
	return cp
}

// startEnvoy starts the Envoy of a proxy and waits until it is ready.
func (cp *controlPlane) startEnvoy(t *testing.T, m *meshtest.Mesh, version string, service identity.Name, p catalog.Proxy) *meshtest.Sidecar {
	t.Helper()
	v, err := bootstrap.ParseVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(m.Runtime, string(p.ID))
	params := bootstrap.Params{
		ProxyID: string(p.ID), Identity: identity.Service{TrustDomain: cp.td, Datacenter: decisiontable.Datacenter, Name: service},
		XDSSocket: cp.socket, TokenFile: filepath.Join(dir, "token.json"), AdminSocket: filepath.Join(dir, "admin.sock"), EnvoyVersion: v,
	}
	b, err := bootstrap.Build(params)
	if err != nil {
		t.Fatal(err)
	}
	config, err := bootstrap.JSON(b)
	if err != nil {
		t.Fatal(err)
	}
	minted, err := cp.tokens.Mint(token.Subject{Proxy: p.ID, Service: p.Service, UID: p.Bootstrap.UID}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := bootstrap.TokenFile(minted.Text)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "bootstrap.json"), string(config))
	writeFile(t, params.TokenFile, string(secret))
	cmd := exec.Command(envoytest.Binary(t, version), bootstrap.Args(params, filepath.Join(dir, "bootstrap.json"))...)
	cmd.Args = append(cmd.Args, "--concurrency", "1") // a dozen of them: the table is about decisions, not about workers
	car := m.Adopt(service.Service, meshtest.Start(t, "envoy "+string(p.ID), filepath.Join(dir, "envoy.log"), cmd), params.AdminSocket)
	car.AwaitReady()
	return car
}

// awaitSync waits until every Envoy has accepted what was published after since.
func (cp *controlPlane) awaitSync(t *testing.T, since time.Time) {
	t.Helper()
	meshtest.Await(t, "all Envoys have the case", func() error {
		for _, p := range cp.xds.Status() {
			if !p.InSync || !p.LastACK.After(since) {
				return errors.New(string(p.ID) + ": " + p.State())
			}
		}
		return nil
	})
}
