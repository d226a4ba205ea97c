//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// workloadAs is a client of workload.sock as another user.
func workloadAs(t *testing.T, m *meshtest.Mesh, uid int) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:workload", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		return dialAs(uid, filepath.Join(m.Runtime, "workload.sock"))
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// applications writes services that name their processes.
func applications(m *meshtest.Mesh, services map[string]int) {
	for name, uid := range services {
		m.Write(name+".hcl", fmt.Sprintf("service {\n  name = %q\n  meta { sallyport_selectors = \"unix:uid:%d\" }\n}\n", name, uid))
	}
}

// TestWorkloadAsked: who asks by the Workload API or SDS for what is not its own, or in ways that nobody asks, gets no secret, whichever method it
// takes; others go on.
func TestWorkloadAsked(t *testing.T) {
	t.Parallel()
	needRoot(t)
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Prober: true})
	applications(m, map[string]int{"front": frontUID, "back": backUID})
	m.Serve()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", "true"), 3*time.Minute)
	defer cancel()
	// Each of these asks by one of the methods, a message once the one before it was answered, and returns what came and how it ended.
	sotw := func(c *grpc.ClientConn, requests ...*discoveryv3.DiscoveryRequest) (got []string, err error) {
		s, err := secretv3.NewSecretDiscoveryServiceClient(c).StreamSecrets(ctx, grpc.MaxCallSendMsgSize(1<<30))
		if err != nil {
			return nil, err
		}
		a := &discoveryv3.DiscoveryResponse{}
		for _, r := range requests { // if one cannot be sent, what is received says why
			_ = s.Send(&discoveryv3.DiscoveryRequest{Node: r.GetNode(), TypeUrl: r.GetTypeUrl(), ResourceNames: r.GetResourceNames(), ResponseNonce: a.GetNonce()})
			if a, err = s.Recv(); err != nil {
				return got, err
			}
			for _, resource := range a.GetResources() {
				got = append(got, string(resource.GetValue()))
			}
		}
		return got, err
	}
	delta := func(c *grpc.ClientConn, requests ...*discoveryv3.DiscoveryRequest) (got []string, err error) {
		s, err := secretv3.NewSecretDiscoveryServiceClient(c).DeltaSecrets(ctx, grpc.MaxCallSendMsgSize(1<<30))
		if err != nil {
			return nil, err
		}
		for _, r := range requests {
			_ = s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: r.GetNode(), TypeUrl: r.GetTypeUrl(), ResourceNamesSubscribe: r.GetResourceNames()})
			a, err := s.Recv()
			if err != nil {
				return got, err
			}
			for _, resource := range a.GetResources() {
				got = append(got, string(resource.GetResource().GetValue()))
			}
		}
		return got, err
	}
	fetch := func(c *grpc.ClientConn, requests ...*discoveryv3.DiscoveryRequest) (got []string, err error) {
		for _, r := range requests {
			a, err := secretv3.NewSecretDiscoveryServiceClient(c).FetchSecrets(ctx, r, grpc.MaxCallSendMsgSize(1<<30))
			if err != nil {
				return got, err
			}
			for _, resource := range a.GetResources() {
				got = append(got, string(resource.GetValue()))
			}
		}
		return got, nil
	}
	svid := func(c *grpc.ClientConn, _ ...*discoveryv3.DiscoveryRequest) ([]string, error) {
		s, err := workloadpb.NewSpiffeWorkloadAPIClient(c).FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
		if err != nil {
			return nil, err
		}
		a, err := s.Recv()
		if err != nil {
			return nil, err
		}
		b, err := proto.Marshal(a)
		return []string{string(b)}, err
	}
	jwt := func(c *grpc.ClientConn, r ...*discoveryv3.DiscoveryRequest) ([]string, error) {
		a, err := workloadpb.NewSpiffeWorkloadAPIClient(c).FetchJWTSVID(ctx, &workloadpb.JWTSVIDRequest{Audience: []string{"x"}, SpiffeId: strings.Join(r[0].GetResourceNames(), "")})
		b, _ := proto.Marshal(a)
		return []string{string(b)}, err
	}
	type method = func(*grpc.ClientConn, ...*discoveryv3.DiscoveryRequest) ([]string, error)
	discovery := map[string]method{"StreamSecrets": sotw, "DeltaSecrets": delta, "FetchSecrets": fetch}
	all := map[string]method{"StreamSecrets": sotw, "DeltaSecrets": delta, "FetchSecrets": fetch, "FetchX509SVID": svid, "FetchJWTSVID": jwt}
	names := func(of ...string) *discoveryv3.DiscoveryRequest {
		return &discoveryv3.DiscoveryRequest{ResourceNames: of, TypeUrl: secretType, Node: &corev3.Node{Id: "front", UserAgentName: "envoy"}}
	}
	meshtest.Await(t, "front's process gets its leaf", func() error {
		got, err := svid(workloadAs(t, m, frontUID))
		if err == nil && !strings.Contains(got[0], m.URI("front")) {
			t.Fatalf("%q", got)
		}
		return err
	})
	tries := 0
	refused := func(what string, f method, c *grpc.ClientConn, want codes.Code, requests ...*discoveryv3.DiscoveryRequest) {
		t.Helper()
		tries++
		got, err := f(c, requests...)
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
		for _, g := range got {
			if strings.Contains(g, "PRIVATE KEY") && !strings.Contains(what, "and then") || strings.Contains(g, m.URI("back")) {
				t.Errorf("%s: a secret came", what)
			}
		}
	}
	for _, uid := range []int{evilUID, 0, 65534, 65533} {
		for name, f := range all {
			for _, asked := range []string{"", m.URI("front"), "*", "default", "leaf/front", "ROOTCA"} {
				if name == "FetchJWTSVID" && asked != "" && asked != m.URI("front") {
					continue // no ID, which is said before all else
				}
				refused(fmt.Sprintf("uid %d, %s of %q", uid, name, asked), f, workloadAs(t, m, uid), codes.PermissionDenied, names(asked))
			}
		}
	}
	front := workloadAs(t, m, frontUID)
	many, short := make([]string, 1_000_000), make([]string, 50_000)
	for n := range many {
		many[n] = fmt.Sprint("leaf/", n)
	}
	for n := range short {
		short[n] = string(rune('a' + n%26))
	}
	huge := names("default")
	huge.Node.Id = strings.Repeat("x", 64<<20)
	otherType := names("default")
	otherType.TypeUrl = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	otherNode := names("leaf/back")
	otherNode.Node = &corev3.Node{Id: "back-sidecar-proxy", Cluster: "back", UserAgentName: "envoy"}
	for name, f := range discovery {
		for _, asked := range []string{m.URI("back"), "leaf/back", "leaf/Front", "LEAF/front", "leaf/", "leaf/../back", "leaf/front/", "leaf/*", m.URI("*"), m.URI("front") + "/", "SPIFFE" + m.URI("front")[6:], "peers/back", "key/front", strings.Repeat("x", 100_000), "\x00"} {
			refused(fmt.Sprintf("%s of %.40q", name, asked), f, front, codes.InvalidArgument, names(asked))
			refused(fmt.Sprintf("%s of its own and %.40q", name, asked), f, front, codes.InvalidArgument, names("default", asked))
		}
		refused(name+" of 1,000,000 names", f, front, codes.ResourceExhausted, names(many...))
		if name != "DeltaSecrets" { // the same name is the same
			refused(name+" of 50,000 names", f, front, codes.InvalidArgument, names(short...))
		}
		refused(name+" of 1,001 names", f, front, codes.InvalidArgument, names(many[:1001]...))
		refused(name+" in 64 MB", f, front, codes.ResourceExhausted, huge)
		refused(name+" of another type", f, front, codes.InvalidArgument, otherType)
		refused(name+" of its own and then as another node", f, front, codes.InvalidArgument, names("default"), otherNode)
	}
	for _, asked := range []string{m.URI("back"), m.URI("Front"), "spiffe://other.consul/x"} {
		refused("a JWT of "+asked, jwt, front, codes.PermissionDenied, names(asked))
	}
	// Its own it gets, by each of them, however often others have asked.
	for name, f := range all {
		asked := names("default")
		if name == "FetchJWTSVID" {
			asked = names("")
		}
		if got, err := f(front, asked); err != nil || len(got) != 1 || got[0] == "" {
			t.Errorf("%s of its own: %d, %v", name, len(got), err)
		}
	}
	// Another process is front now: the stream ends, and neither it nor a new one gives anything.
	held, err := secretv3.NewSecretDiscoveryServiceClient(front).StreamSecrets(ctx)
	if err == nil {
		err = held.Send(names("default"))
	}
	if err == nil {
		_, err = held.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	applications(m, map[string]int{"front": evilUID})
	if a, err := held.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after front names another process: %v, %v", a, err)
	}
	for name, f := range all {
		asked := names("default")
		if name == "FetchJWTSVID" {
			asked = names("")
		}
		refused(name+" after front names another process", f, front, codes.PermissionDenied, asked)
	}
	nothingInSight(t, m)
	figure(t, "tries=%d secrets=0", tries)
}

// TestSocketsOfOthers: the admin socket and ext_authz are not another user's, though its mode or a token lets it through.
func TestSocketsOfOthers(t *testing.T) {
	t.Parallel()
	needRoot(t)
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Prober: true})
	m.Add(meshtest.Service{Name: "web", Protocol: "http", Config: []string{`intention_enforcement = "ext_authz"`, fmt.Sprintf("sallyport_uid = %d", frontUID)}})
	m.Serve()
	socket := filepath.Join(m.Runtime, "admin.sock")
	if c, err := dialAs(evilUID, socket); err == nil {
		c.Close()
		t.Error("another user reaches the admin socket")
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string]string{"token": `{"proxy_id":"web-sidecar-proxy"}`, "token/application": `{"service":"web"}`, "token/revoke": `{"proxy":"web-sidecar-proxy"}`, "judge": `{"proxy_id":"web-sidecar-proxy","token":"x"}`} {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return dialAs(evilUID, socket) }}}
		r, err := client.Post("http://x/v1/"+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != http.StatusForbidden || strings.Contains(string(b), "eyJ") {
			t.Errorf("%s: %d %s, %v", path, r.StatusCode, b, err)
		}
	}
	token := makeBootstrap(t, m, "web").token
	for uid, want := range map[int]bool{frontUID: true, evilUID: false, 65534: false} {
		c, err := grpc.NewClient("passthrough:xds", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			return dialAs(uid, filepath.Join(m.Runtime, "xds.sock"))
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, bearer := range []string{token, "", token[:len(token)-4] + "AAAA"} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err = authv3.NewAuthorizationClient(c).Check(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+bearer, "x-sallyport-destination", "web"), &authv3.CheckRequest{})
			if (err == nil) != (want && bearer == token) {
				t.Errorf("uid %d asks ext_authz with %.5s…: %v", uid, bearer, err)
			}
		}
	}
}

// TestWorkloadFloods has processes of other users flood workload.sock, strangers and one that a service names. Others get their leafs meanwhile, and
// memory stays bounded.
func TestWorkloadFloods(t *testing.T) { // it needs the machine for itself
	needRoot(t)
	const most = 256 << 20
	lasting := time.Second
	if os.Getenv(longVariable) != "" {
		lasting = time.Minute
	}
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Prober: true})
	m.SetFlags("--log-level", "info")
	applications(m, map[string]int{"front": frontUID, "back": backUID})
	m.Serve()
	program, serve := copyTestBinary(t), m.ServeProcess()
	goroutines := goroutinesOf(t, m)
	get := func() (took []time.Duration, err error) {
		for end := time.Now().Add(lasting / 2); time.Now().Before(end) && err == nil; {
			began := time.Now()
			_, err = svids(t, m, frontUID, nil)
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took, err
	}
	meshtest.Await(t, "front's process gets its leaf", func() error { _, err := get(); return err })
	const svid, sds = workloadpb.SpiffeWorkloadAPI_FetchX509SVID_FullMethodName, secretv3.SecretDiscoveryService_StreamSecrets_FullMethodName
	for _, f := range []struct {
		flood
		uid uint32
	}{
		{flood{Kind: "unfinished", Method: svid}, 65534},
		{flood{Kind: "headers", Method: svid}, 65534},
		{flood{Kind: "hpack", Method: svid}, 65534},
		{flood{Kind: "connections"}, 65534},
		{flood{Kind: "refusals", Method: svid}, 65534},
		{flood{Kind: "unread", Method: svid}, 65534},
		{flood{Kind: "unfinished", Method: sds}, backUID},
		{flood{Kind: "hpack", Method: sds}, backUID},
		{flood{Kind: "unread", Method: svid}, backUID},
		{flood{Kind: "connections"}, 0},
	} {
		f.Network, f.Addr, f.Time = "unix", filepath.Join(m.Runtime, "workload.sock"), lasting
		t.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(f.Kind, " ", "_"), f.uid), func(t *testing.T) {
			lines := strings.Count(serve.Log(), "\n")
			peak := watchMemory(serve.PID())
			ended := startFlood(t, program, f.flood, f.uid)
			time.Sleep(lasting / 2)
			took, err := get()
			if err != nil {
				t.Errorf("front's process meanwhile: %v", err)
			}
			if err := <-ended; err != nil {
				t.Errorf("the flood: %v", err)
			}
			bytes := peak()
			lines = strings.Count(serve.Log(), "\n") - lines
			gone := meshtest.Await(t, "the goroutines to be gone", func() error {
				if n := goroutinesOf(t, m); n > goroutines+20 {
					return fmt.Errorf("%d goroutines, %d before", n, goroutines)
				}
				return nil
			})
			figure(t, "flood=%q uid=%d leafs=%d p50_ms=%.1f most_ms=%.1f peak_MiB=%d gone_s=%.1f log_lines=%d", f.Kind, f.uid, len(took), took[len(took)/2].Seconds()*1000, took[len(took)-1].Seconds()*1000, bytes>>20, gone.Seconds(), lines)
			if most := 5 * time.Second; took[len(took)-1] > most {
				t.Errorf("a leaf took %v", took[len(took)-1])
			}
			if bytes > most {
				t.Errorf("the control plane took %d MiB", bytes>>20)
			}
			if lines > 100+2*len(took) {
				t.Errorf("%d lines were logged", lines)
			}
		})
	}
}
