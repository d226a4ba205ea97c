//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// others are trust domains without a mesh, beside the two of TestTwoTrustDomains: workloads of go-spiffe that call services of b, and one
// that web of a calls.
type others struct {
	a, b       *meshtest.Mesh
	ofA, ofB   string
	c, c2, d   *meshtest.Authority // td-c.example has a second root
	server     *foreignWorkload
	http, grpc int // where web of a finds it
}

const (
	callerOfC = "spiffe://td-c.example/ns/prod/sa/caller"
	serverOfC = "spiffe://td-c.example/ns/prod/sa/server"
	callerOfD = "spiffe://td-d.example/ns/prod/sa/caller"
	webOfA    = "spiffe://td-a.example/ns/default/dc/dc1/svc/web"
	servicesB = "spiffe://td-b.example/ns/default/dc/dc1/svc/"
)

// newOthers adds services to b, and returns what web of a has for upstreams.
func newOthers(t *testing.T, a, b *meshtest.Mesh, ofA, ofB, config string) (o *others, upstreams string) {
	t.Helper()
	o = &others{
		a: a, b: b, ofA: ofA, ofB: ofB, http: a.Port(), grpc: a.Port(),
		c: meshtest.ForeignAuthority(t, "td-c.example"), c2: meshtest.ForeignAuthority(t, "td-c.example"), d: meshtest.ForeignAuthority(t, "td-d.example"),
	}
	o.server = newForeignWorkload(t, o.c, serverOfC)
	web, rpc := o.server.serve(t, webOfA)
	var text strings.Builder
	for protocol, ports := range map[string][2]int{"http2": {web, o.http}, "grpc": {rpc, o.grpc}} {
		fmt.Fprintf(&text, "\n    upstreams {\n      spiffe_id = %q\n      address = \"127.0.0.1\"\n      port = %d\n      local_bind_port = %d\n      config { protocol = %q }\n    }", serverOfC, ports[0], ports[1], protocol)
	}
	b.Add(meshtest.Service{Name: "db", Local: serveEcho(t, ""), Config: []string{config}})
	b.Add(meshtest.Service{Name: "rpc", Protocol: "grpc", Local: serveHealth(t), Config: []string{config}})
	o.callers("db")
	o.callers("rpc", callerOfC)
	return o, text.String()
}

// callers are who may connect to a service of b: one of its own, and these.
func (o *others) callers(service string, ids ...string) {
	var text strings.Builder
	fmt.Fprintf(&text, "Kind = \"service-intentions\"\nName = %q\nSources = [\n  { Name = \"local\", Action = \"allow\" },\n", service)
	for _, id := range ids {
		fmt.Fprintf(&text, "  { spiffe_id = %q, Action = \"allow\" },\n", id)
	}
	o.b.Write(service+"-callers.hcl", text.String()+"]\n")
}

// live is a connection that has to go on.
type live struct {
	name  string
	try   func() error
	dials atomic.Int64
}

// lives are connections of w to each service of b, in each protocol.
func lives(t *testing.T, b *meshtest.Mesh, w *foreignWorkload) (all []*live) {
	t.Helper()
	add := func(protocol string) *live {
		l := &live{name: w.ID.String() + ", " + protocol}
		all = append(all, l)
		return l
	}
	counted := func(l *live) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			l.dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
	}
	only := func(service string) tlsconfig.Authorizer {
		return tlsconfig.AuthorizeID(spiffeid.RequireFromString(servicesB + service))
	}
	tcp := add("tcp")
	var conn net.Conn
	tcp.try = func() (err error) {
		if conn == nil {
			tcp.dials.Add(1)
			if conn, err = w.dial(b.Public("db"), servicesB+"db"); err != nil {
				return err
			}
		}
		if err = exchanges(conn); err != nil {
			conn.Close()
			conn = nil
		}
		return err
	}
	t.Cleanup(func() {
		if conn != nil {
			conn.Close()
		}
	})
	for _, two := range []bool{false, true} {
		l := add(map[bool]string{false: "HTTP/1.1", true: "HTTP/2"}[two])
		tr := &http.Transport{TLSClientConfig: tlsconfig.MTLSClientConfig(w, w, only("api")), Protocols: new(http.Protocols), DialContext: counted(l)}
		tr.Protocols.SetHTTP1(!two)
		tr.Protocols.SetHTTP2(two)
		t.Cleanup(tr.CloseIdleConnections)
		l.try = func() error { return wantAllowed(meshtest.Get(tr, "https://"+b.Public("api")+"/")) }
	}
	rpc := add("gRPC")
	dial := counted(rpc)
	client, err := grpc.NewClient(b.Public("rpc"), grpc.WithTransportCredentials(grpccredentials.MTLSClientCredentials(w, w, only("rpc"))),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "tcp", addr) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	rpc.try = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := healthv1.NewHealthClient(client).Check(ctx, &healthv1.HealthCheckRequest{})
		return err
	}
	return all
}

// run has workloads of go-spiffe call and be called, and changes what is known of trust domains while connections of both kinds are open.
func (o *others) run(t *testing.T, cars ...*meshtest.Sidecar) {
	t.Helper()
	a, b := o.a, o.b
	o.server.Add(bundleOf(t, a, "td-a.example"))
	reload := func(m *meshtest.Mesh) {
		if err := m.ServeProcess().Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	knows(t, o.ofA, "td-c.example", o.c)
	reload(a)
	meshtest.Await(t, "web of td-a reaches a server of go-spiffe", func() error { return wantAllowed(meshtest.GetPlain(fmt.Sprintf("http://127.0.0.1:%d/", o.http))) })
	meshtest.Await(t, "web of td-a reaches one of gRPC", func() error { return (*foreignWorkload)(nil).check(fmt.Sprintf("127.0.0.1:%d", o.grpc), "") })

	own := bundleOf(t, b, "td-b.example")
	of := func(ca *meshtest.Authority, id string) *foreignWorkload { return newForeignWorkload(t, ca, id, own) }
	knows(t, o.ofB, "td-c.example", o.c)
	reload(b)
	var all []*live
	begin := func(w *foreignWorkload) {
		for _, l := range lives(t, b, w) {
			meshtest.Await(t, l.name, l.try)
			l.dials.Store(1) // it took some until it was let in
			all = append(all, l)
		}
	}
	begin(of(b.Authority(), servicesB+"local"))
	same := unmodified(t, cars...)
	o.callers("db", callerOfC, callerOfD) // its first of another trust domain
	begin(of(o.c, callerOfC))
	toAPI := func(w *foreignWorkload) func() error {
		return func() error { return wantAllowed(w.get(b.Public("api"), servicesB+"api", false)) }
	}
	toDB := func(w *foreignWorkload) func() error {
		return func() error {
			conn, err := w.dial(b.Public("db"), servicesB+"db")
			if err != nil {
				return err
			}
			defer conn.Close()
			return exchanges(conn)
		}
	}
	not := func(try func() error) func() error {
		return func() error {
			if try() == nil {
				return errors.New("it is let in")
			}
			return nil
		}
	}
	ofC2, ofD := of(o.c2, callerOfC), of(o.d, callerOfD)
	steps := []struct {
		what   string
		do     func()
		effect func() error
	}{
		{"td-d is known", func() { knows(t, o.ofB, "td-d.example", o.d) }, toDB(ofD)},
		{"a caller of td-d may reach api", func() { o.callers("api", webOfA, callerOfC, callerOfD) }, toAPI(ofD)},
		{"td-c has a second root", func() { knows(t, o.ofB, "td-c.example", o.c, o.c2) }, toDB(ofC2)},
		{"a caller of td-d may not reach api", func() { o.callers("api", webOfA, callerOfC) }, not(toAPI(ofD))},
		{"td-c has one root, and td-d is not known", func() {
			knows(t, o.ofB, "td-c.example", o.c)
			if err := os.Remove(filepath.Join(o.ofB, "td-d.example.yaml")); err != nil {
				t.Fatal(err)
			}
		}, func() error {
			if err := not(toDB(ofD))(); err != nil {
				return err
			}
			return not(toDB(ofC2))()
		}},
	}
	b.MustRun("ca", "rotate")
	meshtest.Await(t, "td-b has a second root", func() error {
		s, err := caStatus(b)
		if err == nil && len(s.Roots) != 2 {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	changes := 2
	for range 4 {
		for _, s := range steps {
			s.do()
			reload(b)
			changes++
			meshtest.Await(t, s.what, s.effect)
			for _, l := range all {
				if err := l.try(); err != nil {
					t.Errorf("%s: %s: %v", s.what, l.name, err)
				}
			}
			for _, car := range cars {
				if n := car.Stats()["listener_manager.total_filter_chains_draining"]; n != 0 {
					t.Errorf("%s: %d filter chains of %s are draining", s.what, n, car.Name)
				}
			}
		}
	}
	same(fmt.Sprintf("%d changes of trust domains, their roots and callers", changes))
	for _, l := range all {
		if n := l.dials.Load(); n != 1 {
			t.Errorf("%s: %d connections, want the one it began with", l.name, n)
		}
	}
	figure(t, "changes=%d connections=%d ended=0 listener_modified=0", changes, len(all))
}
