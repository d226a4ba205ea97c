package workload_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// uri is the SPIFFE ID of a service.
func uri(service string) string { return domain.IDString() + "/ns/default/dc/dc1/svc/" + service }

type x509Stream = grpc.ServerStreamingClient[workloadpb.X509SVIDResponse]

func fetch(t testing.TB, c *grpc.ClientConn) x509Stream {
	t.Helper()
	stream, err := workloadpb.NewSpiffeWorkloadAPIClient(c).FetchX509SVID(asked(t), &workloadpb.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// ids are the SPIFFE IDs of the next message.
func ids(t testing.TB, stream x509Stream) []string {
	t.Helper()
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range m.GetSvids() {
		out = append(out, s.GetSpiffeId())
	}
	return out
}

func wantStatus(t testing.TB, err error, code codes.Code, parts ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("%v; want %v", err, code)
	}
	for _, p := range parts {
		if !strings.Contains(status.Convert(err).Message(), p) {
			t.Errorf("%v; want %q", err, p)
		}
	}
}

// TestX509SVID holds the form of the message: as SPIFFE wants it, and go-spiffe.
func TestX509SVID(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	m, err := fetch(t, h.client(t, webUID)).Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.GetSvids()) != 1 || len(m.GetFederatedBundles()) != 0 || len(m.GetCrl()) != 0 {
		t.Fatalf("%d SVIDs, %d federated bundles", len(m.GetSvids()), len(m.GetFederatedBundles()))
	}
	s := m.GetSvids()[0]
	if s.GetSpiffeId() != uri("web") || s.GetHint() != "" {
		t.Errorf("SPIFFE ID %s, hint %q", s.GetSpiffeId(), s.GetHint())
	}
	svid, err := x509svid.ParseRaw(s.GetX509Svid(), s.GetX509SvidKey())
	if err != nil {
		t.Fatal(err)
	}
	if len(svid.Certificates) != 2 || !svid.Certificates[1].IsCA || svid.Certificates[1].CheckSignatureFrom(svid.Certificates[1]) == nil {
		t.Errorf("%d certificates; want the leaf and the intermediate, not the root", len(svid.Certificates))
	}
	if _, err := x509.ParsePKCS8PrivateKey(s.GetX509SvidKey()); err != nil {
		t.Error(err)
	}
	bundle, err := x509bundle.ParseRaw(domain, s.GetBundle())
	if err != nil {
		t.Fatal(err)
	}
	if id, _, err := x509svid.Verify(svid.Certificates, bundle); err != nil || id.String() != uri("web") {
		t.Errorf("%v, %v", id, err)
	}
	if log := h.log.String(); strings.Count(log, "leaf handed out") != 1 || !strings.Contains(log, "service=web") || !strings.Contains(log, "uid=12345") || strings.Contains(log, "PRIVATE") {
		t.Errorf("log: %s", log)
	}
}

// TestIdentities: all of them in one message, the default first, a new message for each change of
// what the process is, and PermissionDenied when that is nothing.
func TestIdentities(t *testing.T) {
	h := start(t, time.Hour, nil)
	web := fmt.Sprintf("unix:uid:%d", webUID)
	h.publish(instance("web-1", "web", web), instance("api-1", "api", web), instance("api-2", "api", web), instance("other", "other", fmt.Sprintf("unix:uid:%d", otherUID)), instance("bad", "bad", "unix:path:/bin/true"))
	stream := fetch(t, h.client(t, webUID))
	if got := ids(t, stream); !slices.Equal(got, []string{uri("api"), uri("web")}) {
		t.Errorf("%q", got)
	}
	h.publish(instance("web-1", "web", web), instance("api-2", "api", web)) // api still has it
	h.publish(instance("web-1", "web", web))
	if got := ids(t, stream); !slices.Equal(got, []string{uri("web")}) {
		t.Errorf("%q", got)
	}
	h.publish(instance("web-1", "web", web), instance("mail", "mail", web+",unix:gid:12345"))
	if got := ids(t, stream); !slices.Equal(got, []string{uri("mail"), uri("web")}) {
		t.Errorf("%q", got)
	}
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", otherUID)))
	since := time.Now()
	_, err := stream.Recv()
	wantStatus(t, err, codes.PermissionDenied, "no identity issued", "uid 12345", `meta { sallyport_selectors = "unix:uid:12345" }`)
	t.Logf("denied after %v", time.Since(since))
}

// TestDenied: who is named by no service, and who stands for nobody.
func TestDenied(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)), instance("nobody", "nobody", "unix:uid:65534"), instance("root", "root", "unix:uid:0"),
		instance("path", "path", fmt.Sprintf("unix:uid:%d,unix:path:/no/such/file", otherUID)))
	for uid, want := range map[int]string{otherUID: "no service names process", 0: "runs as root", 65534: "stands for every user"} {
		_, err := fetch(t, h.client(t, uid)).Recv()
		wantStatus(t, err, codes.PermissionDenied, "no identity issued", want)
	}
	for uid, want := range map[int]string{otherUID: "unnamed", 0: "nobody", 65534: "nobody"} {
		_, err := fetch(t, h.client(t, uid)).Recv() // once more, which is not logged
		wantStatus(t, err, codes.PermissionDenied, "no identity issued")
		line := regexp.MustCompile(fmt.Sprintf(`msg=denied audit=denial peer="uid %d" pid=\d+ endpoint=workload.sock reason=%s err="no identity issued: `, uid, want))
		if n := len(line.FindAllString(h.log.String(), -1)); n != 1 {
			t.Errorf("uid %d has %d lines of %s in the log: %s", uid, n, line, h.log)
		}
	}
	if strings.Contains(h.log.String(), "handed out") {
		t.Errorf("log: %s", h.log)
	}
}

// TestForwarder: a process of root that forwards a socket, as Nomad's does for tasks, gets nothing
// for those who connect to it.
func TestForwarder(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	front := h.socket + ".forwarded"
	l, err := net.Listen("unix", front)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(front, 0o777); err != nil {
		t.Fatal(err)
	}
	direct := h.socket
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", direct)
			if err != nil {
				t.Error(err)
				return
			}
			go func() { _, _ = io.Copy(out, in); out.Close() }()
			go func() { _, _ = io.Copy(in, out); in.Close() }()
		}
	}()
	defer func() { l.Close(); <-done }()
	h.socket = front
	_, err = fetch(t, h.client(t, webUID)).Recv()
	wantStatus(t, err, codes.PermissionDenied, "no identity issued", "root")
	h.socket = direct
	if got := ids(t, fetch(t, h.client(t, webUID))); !slices.Equal(got, []string{uri("web")}) {
		t.Errorf("%q", got)
	}
}

// TestHeader: each method of the Workload API wants the security header, exactly once.
func TestHeader(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	c := h.client(t, webUID)
	api := workloadpb.NewSpiffeWorkloadAPIClient(c)
	for name, header := range map[string][]string{"none": nil, "false": {"workload.spiffe.io", "false"}, "twice": {"workload.spiffe.io", "true", "workload.spiffe.io", "true"}} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, header...)
		for method, call := range map[string]func() error{
			"FetchX509SVID": func() error {
				s, err := api.FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
				if err == nil {
					_, err = s.Recv()
				}
				return err
			},
			"FetchX509Bundles": func() error {
				s, err := api.FetchX509Bundles(ctx, &workloadpb.X509BundlesRequest{})
				if err == nil {
					_, err = s.Recv()
				}
				return err
			},
			"FetchJWTBundles": func() error {
				s, err := api.FetchJWTBundles(ctx, &workloadpb.JWTBundlesRequest{})
				if err == nil {
					_, err = s.Recv()
				}
				return err
			},
			"FetchJWTSVID": func() error {
				_, err := api.FetchJWTSVID(ctx, &workloadpb.JWTSVIDRequest{Audience: []string{"a"}})
				return err
			},
			"ValidateJWTSVID": func() error {
				_, err := api.ValidateJWTSVID(ctx, &workloadpb.ValidateJWTSVIDRequest{Audience: "a", Svid: "a"})
				return err
			},
		} {
			if err := call(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "security header missing") {
				t.Errorf("%s, %s: %v", method, name, err)
			}
		}
	}
	if r, err := healthpb.NewHealthClient(c).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health without the header: %v, %v", r, err)
	}
}

// TestNotReady: nothing that passes is final to go-spiffe.
func TestNotReady(t *testing.T) {
	h := start(t, time.Hour, nil)
	_, err := fetch(t, h.client(t, webUID)).Recv()
	wantStatus(t, err, codes.Unavailable, "catalog")
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	stream := fetch(t, h.client(t, webUID))
	ids(t, stream)
	h.stop()
	_, err = stream.Recv()
	wantStatus(t, err, codes.Unavailable)
}

// TestOneLeafPerUser: processes of one user share the leaf of a service, those of different users
// do not, and a stream that comes later gets the same.
func TestOneLeafPerUser(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)), instance("web-2", "web", fmt.Sprintf("unix:uid:%d", otherUID)))
	leaf := func(uid int) string {
		c := h.client(t, uid)
		defer c.Close()
		m, err := fetch(t, c).Recv()
		if err != nil {
			t.Fatal(err)
		}
		return string(m.GetSvids()[0].GetX509Svid())
	}
	first := leaf(webUID)
	if leaf(webUID) != first {
		t.Error("one user has two leafs")
	}
	if leaf(otherUID) == first {
		t.Error("two users have one leaf")
	}
}

// TestBundles: the bundle is public.
func TestBundles(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish()
	for _, uid := range []int{0, otherUID} {
		stream, err := workloadpb.NewSpiffeWorkloadAPIClient(h.client(t, uid)).FetchX509Bundles(asked(t), &workloadpb.X509BundlesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := x509bundle.ParseRaw(domain, m.GetBundles()[domain.IDString()]); err != nil || len(b.X509Authorities()) != 1 || len(m.GetBundles()) != 1 {
			t.Errorf("%v, %v", b, err)
		}
	}
}

// TestGoSPIFFE: go-spiffe's sources on the socket, mutual TLS between two services through
// rotations of their leafs, and a third one that is refused.
func TestGoSPIFFE(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)), instance("api-1", "api", fmt.Sprintf("unix:uid:%d", otherUID)), instance("evil", "evil", "unix:uid:12347"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	source := func(uid int) *workloadapi.X509Source {
		s, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+h.socket), workloadapi.WithDialOptions(h.dialOptions(uid)...)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	web, api, evil := source(webUID), source(otherUID), source(12347)
	l, err := spiffetls.ListenWithMode(ctx, "tcp", "127.0.0.1:0", spiffetls.MTLSServerWithSource(tlsconfig.AuthorizeID(spiffeid.RequireFromString(uri("web"))), api))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			c.Close()
		}
	}()
	defer func() { l.Close(); <-served }()
	dial := func(from *workloadapi.X509Source) error {
		c, err := spiffetls.DialWithMode(ctx, "tcp", l.Addr().String(), spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(spiffeid.RequireFromString(uri("api"))), from))
		if err != nil {
			return err
		}
		defer c.Close()
		text, err := io.ReadAll(c)
		if err == nil && string(text) != "hello" {
			err = errors.New("nothing was said")
		}
		return err
	}
	leafs := map[string]bool{}
	for len(leafs) < 4 {
		if ctx.Err() != nil {
			t.Fatalf("%d leafs in two minutes", len(leafs))
		}
		for _, service := range []string{"web", "api"} {
			if err := h.secrets.Rotate(identity.NewName(service)); err != nil {
				t.Fatal(err)
			}
		}
		svid, err := web.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		leafs[svid.Certificates[0].SerialNumber.String()] = true
		if err := dial(web); err != nil {
			t.Fatalf("after %d leafs: %v", len(leafs), err)
		}
		if err := dial(evil); err == nil {
			t.Fatal("evil is let in")
		}
	}
}

// TestSlowReader: one who does not read keeps nobody from being told.
func TestSlowReader(t *testing.T) {
	h := start(t, time.Hour, nil)
	web := fmt.Sprintf("unix:uid:%d", webUID)
	h.publish(instance("web-1", "web", web))
	slow := h.client(t, webUID)
	for range 20 {
		fetch(t, slow) // none of which is read
	}
	stream := fetch(t, h.client(t, webUID))
	ids(t, stream)
	for n := range 60 { // more than a window of messages for those that do not read
		service := "a" + string(rune('a'+n%26)) + string(rune('a'+n/26))
		h.publish(instance("web-1", "web", web), instance(service, service, web))
		if got := ids(t, stream); len(got) != 2 || got[0] != uri(service) {
			t.Fatalf("%q; want %s", got, service)
		}
	}
}

// TestBounds: streams of one user have an end, and others have theirs.
func TestBounds(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	// A stranger has the bundle on a few streams.
	api := workloadpb.NewSpiffeWorkloadAPIClient(h.client(t, otherUID))
	refused := 0
	for range 30 {
		stream, err := api.FetchX509Bundles(asked(t), &workloadpb.X509BundlesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = stream.Recv(); err != nil {
			wantStatus(t, err, codes.Unavailable, "too many streams")
			refused++
		}
	}
	if refused != 30-8 {
		t.Errorf("%d of 30 streams of a stranger were refused; want all but 8", refused)
	}
	// And few connections.
	open := 0
	for range 40 {
		c, err := dialAs(otherUID, h.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			open++
			continue
		}
	}
	if open != 31 {
		t.Errorf("%d connections beside the first; want 31", open)
	}
	if got := ids(t, fetch(t, h.client(t, webUID))); !slices.Equal(got, []string{uri("web")}) {
		t.Errorf("%q", got)
	}
	// Who is named has more, by number and by name.
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)), instance("bin", "bin", "unix:user:bin"))
	for _, uid := range []int{webUID, 2} {
		c := h.client(t, uid)
		for n := range 40 {
			if _, err := fetch(t, c).Recv(); err != nil {
				t.Fatalf("stream %d of uid %d: %v", n, uid, err)
			}
		}
	}
}

// TestProcessEnds: a stream ends with the process that opened it, though somebody else has the
// connection.
func TestProcessEnds(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	// The shell's child keeps the connection, which this test speaks by.
	conn, end := h.childConn(t, webUID)
	c, err := grpc.NewClient("passthrough:workload", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return conn, nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stream := fetch(t, c)
	if got := ids(t, stream); !slices.Equal(got, []string{uri("web")}) {
		t.Errorf("%q", got)
	}
	end()
	_, err = stream.Recv()
	wantStatus(t, err, codes.Unavailable)
}
