package snapshot_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	logv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	networkauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// onlyAPI is a policy that allows api and nobody else.
func onlyAPI() *intention.Policy { return compile("web", intention.Deny, from("api", intention.Allow)) }

func onEnvoys(t *testing.T, f func(t *testing.T, version string, features snapshot.Features)) {
	t.Helper()
	for version, features := range map[string]snapshot.Features{envoytest.Oldest: oldest, envoytest.Newest: newest} {
		t.Run(version, func(t *testing.T) { f(t, version, features) })
	}
}

// TestHTTPSlots fills each slot with something real and empties it again: it does what it says, and
// no listener changes.
func TestHTTPSlots(t *testing.T) {
	onEnvoys(t, func(t *testing.T, version string, features snapshot.Features) {
		app := filepath.Join(socketDir(t), "app")
		serve(t, app)
		in := input(onlyAPI(), catalog.Inbound{Protocol: catalog.HTTP, LocalSocket: app})
		in.Envoy = features
		r := build(t, in)
		d := startDynamic(t, version, r)
		ask := func() string {
			c, err := d.dial("api")
			if err != nil {
				t.Fatal(err)
			}
			status, body, err := roundTrip(c, "/")
			return fmt.Sprint(status, " ", body, " ", err)
		}
		const plain = "200 application <nil>"
		works := func(what, want string) {
			t.Helper()
			meshtest.Await(t, what, func() error {
				if got := ask(); got != want {
					return fmt.Errorf("%q, want %q", got, want)
				}
				return nil
			})
		}
		works("empty slots", plain)
		empty := func(slot string) { d.put(r.ByType[extensions].Get(slot)) }

		jwks := &jwtv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{
			InlineString: `{"keys":[{"kty":"EC","crv":"P-256","kid":"a","alg":"ES256","use":"sig",` +
				`"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}`,
		}}}
		d.fill("jwt/web", &jwtv3.JwtAuthentication{
			Providers: map[string]*jwtv3.JwtProvider{"okta": {Issuer: "https://id.example.com", JwksSourceSpecifier: jwks, PayloadInMetadata: "jwt_payload_okta"}},
			Rules: []*jwtv3.RequirementRule{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				RequirementType: &jwtv3.RequirementRule_Requires{Requires: &jwtv3.JwtRequirement{
					RequiresType: &jwtv3.JwtRequirement_ProviderName{ProviderName: "okta"},
				}},
			}},
		})
		works("a token is asked for", "401 Jwt is missing <nil>")
		empty("jwt/web")
		works("no token is asked for", plain)

		script := `function envoy_on_request(h) h:respond({[":status"] = "418"}, "lua") end`
		d.fill("extensions/http/web", &luav3.Lua{DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: script}}})
		works("a script answers", "418 lua <nil>")
		c, err := d.dial("bad")
		if err != nil {
			t.Fatal(err)
		}
		if status, _, err := roundTrip(c, "/"); status != 403 || err != nil {
			t.Errorf("who is denied gets to the script: %d, %v", status, err)
		}
		empty("extensions/http/web")
		works("no script answers", plain)

		meshtest.Await(t, "the refusal is reported", func() error { return logged(d, "refusals", 1) })
		all, err := structpb.NewStruct(map[string]any{"access_log": "all"})
		if err != nil {
			t.Fatal(err)
		}
		d.fill("log/web", &metadatav3.Config{Metadata: []*metadatav3.Metadata{{MetadataNamespace: "sallyport", Value: all}}})
		works("all is logged", plain)
		meshtest.Await(t, "an allowed request is reported", func() error { ask(); return logged(d, "refusals", 2) })
		empty("log/web")
		works("nothing is logged", plain)
		if n := d.asked.Load(); n != 0 {
			t.Errorf("ext_authz is asked %d times although the rules decide", n)
		}
		d.untouched()
	})
}

func logged(d *dynamic, name string, n int) error {
	if got := d.logs()[name]; got < n {
		return fmt.Errorf("%d entries of %s, want %d", got, name, n)
	}
	return nil
}

// TestTCPSlots is TestHTTPSlots for a tcp service, with a connection that lives through all of it.
func TestTCPSlots(t *testing.T) {
	onEnvoys(t, func(t *testing.T, version string, features snapshot.Features) {
		app := filepath.Join(socketDir(t), "app")
		banner(t, app)
		in := input(onlyAPI(), catalog.Inbound{LocalSocket: app})
		in.Envoy = features
		r := build(t, in)
		d := startDynamic(t, version, r)
		live, err := d.dial("api")
		if err != nil {
			t.Fatal(err)
		}
		echo(t, live, "!")
		allowed := func(what string) {
			t.Helper()
			meshtest.Await(t, what, func() error {
				if got := d.says("api", "x", time.Second); got != "!" {
					return fmt.Errorf("heard %q", got)
				}
				return nil
			})
		}
		empty := func(slot string) { d.put(r.ByType[extensions].Get(slot)); allowed(slot + " is empty") }
		service := &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
			EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "sallyport"},
		}}
		for _, slot := range []string{"authz/web", "extensions/tcp/web"} {
			before := d.asked.Load()
			d.fill(slot, &networkauthzv3.ExtAuthz{StatPrefix: "x", TransportApiVersion: corev3.ApiVersion_V3, GrpcService: service})
			meshtest.Await(t, slot+" asks", func() error {
				if d.says("api", "x", time.Second); d.asked.Load() == before {
					return errors.New("not asked")
				}
				return nil
			})
			empty(slot)
		}

		log, err := anypb.New(&grpclogv3.TcpGrpcAccessLogConfig{CommonConfig: &grpclogv3.CommonGrpcAccessLogConfig{
			LogName: "proxy", TransportApiVersion: corev3.ApiVersion_V3, GrpcService: service,
		}})
		if err != nil {
			t.Fatal(err)
		}
		proxy := filled(t, r, "proxy/web", &tcpv3.TcpProxy{})
		proxy.AccessLog = []*logv3.AccessLog{{Name: "envoy.access_loggers.tcp_grpc", ConfigType: &logv3.AccessLog_TypedConfig{TypedConfig: log}}}
		d.fill("proxy/web", proxy)
		meshtest.Await(t, "a connection is logged", func() error { d.says("api", "x", time.Second); return logged(d, "proxy", 1) })
		empty("proxy/web")

		if got := d.says("bad", "x", time.Second); got != "" {
			t.Errorf("who is denied hears %q", got)
		}
		meshtest.Await(t, "the refusal is reported", func() error { return logged(d, "refusals", 1) })
		d.fill("intentions/web", &networkrbacv3.RBAC{StatPrefix: "x", Matcher: filled(t, build(t, nobody(in)), "intentions/web", &networkrbacv3.RBAC{}).Matcher})
		meshtest.Await(t, "nobody is allowed", func() error {
			// Envoy 1.36 dials at once and judges at the first byte, so that what the application says first may be faster.
			if got := d.hears("api", "x", 2, time.Second); got != "" && (version != "1.36.4" || got != "!") {
				return fmt.Errorf("heard %q", got)
			}
			return nil
		})
		empty("intentions/web")
		echo(t, live, "y")
		d.untouched()
	})
}

// nobody is in under a policy that allows nobody.
func nobody(in snapshot.Input) snapshot.Input {
	in.Policy = compile("web", intention.Deny)
	return in
}

// echo sends a byte on a connection and reads as many as came before it.
func echo(t *testing.T, c net.Conn, want string) {
	t.Helper()
	if _, err := io.WriteString(c, "y"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("a live connection: %q, %v, want %q", b, err, want)
	}
}

// TestJudgesOneByOne changes the enforcement of a tcp service in all six directions, one resource
// after the other in every order in which the control plane may send them: after each, who is
// denied has nothing of an application that speaks first.
func TestJudgesOneByOne(t *testing.T) {
	onEnvoys(t, func(t *testing.T, version string, features snapshot.Features) {
		app := filepath.Join(socketDir(t), "app")
		dials := banner(t, app)
		resources := map[catalog.Enforcement]*snapshot.Resources{}
		for _, e := range []catalog.Enforcement{catalog.RBAC, catalog.Both, catalog.ExtAuthz} {
			in := input(onlyAPI(), catalog.Inbound{LocalSocket: app, Enforcement: e})
			in.Envoy = features
			resources[e] = build(t, in)
		}
		d := startDynamic(t, version, resources[catalog.RBAC])
		have := resources[catalog.RBAC]
		steps := 0
		check := func(after string) {
			t.Helper()
			steps++
			time.Sleep(20 * time.Millisecond) // from Envoy's main thread, which has answered, to its worker
			before := dials.Load()
			for _, text := range []string{"", "x"} {
				if got := d.says("bad", text, 100*time.Millisecond); got != "" {
					t.Errorf("%s: who is denied hears %q", after, got)
				}
			}
			if n := dials.Load() - before; n != 0 && features.ConnectMode {
				t.Errorf("%s: the application is dialled %d times for who is denied", after, n)
			}
			if got := d.says("api", "x", meshtest.Deadline); got != "!" {
				t.Errorf("%s: who is allowed hears %q", after, got)
			}
		}
		for _, pair := range [][2]catalog.Enforcement{{catalog.RBAC, catalog.Both}, {catalog.RBAC, catalog.ExtAuthz}, {catalog.Both, catalog.ExtAuthz}} {
			for n := range 4 {
				for _, e := range []catalog.Enforcement{pair[0], pair[1]} {
					for _, name := range ordered(have, resources[e], n) {
						d.put(d.judge(resources[e], name))
						check(fmt.Sprintf("between %s and %s, to %s in order %d: %s", pair[0], pair[1], e, n, name))
					}
					have = resources[e]
				}
			}
		}
		t.Logf("%d steps", steps)
		d.untouched()
	})
}

// judge is a judge of r as a resource.
func (d *dynamic) judge(r *snapshot.Resources, name string) *discoveryv3.Resource {
	d.t.Helper()
	if e := r.ByType[extensions].Get(name); e != nil {
		return e
	}
	i := slices.IndexFunc(r.Secrets, func(s snapshot.Secret) bool { return s.Name == name })
	return d.secret(r.Secrets[i])
}

// ordered are the judges that differ, in the n-th of the four orders: those that close, then those
// that are lifted.
func ordered(from, to *snapshot.Resources, n int) (names []string) {
	for _, lifted := range []bool{false, true} {
		var some []string
		for name, j := range to.Judges {
			if j.Lifted == lifted && version(from, name) != version(to, name) {
				some = append(some, name)
			}
		}
		slices.Sort(some)
		if n&1 != 0 {
			slices.Reverse(some)
		}
		n >>= 1
		names = append(names, some...)
	}
	return names
}

func version(r *snapshot.Resources, judge string) string {
	if e := r.ByType[extensions].Get(judge); e != nil {
		return e.GetVersion()
	}
	for _, s := range r.Secrets {
		if s.Name == judge {
			return s.Version
		}
	}
	return ""
}
