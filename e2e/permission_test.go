//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// permitting is a service behind real Envoys in each mode, and a control plane that is told what intentions there are.
type permitting struct {
	t        *testing.T
	m        *meshtest.Mesh
	cp       *controlPlane
	td       spiffeid.TrustDomain
	api      identity.Name
	doors    []door // of http and of http2 in turns, in each mode
	changes  int
	requests atomic.Int64
}

func newPermitting(t *testing.T, version string) *permitting {
	t.Helper()
	p := &permitting{t: t, m: meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: version}), api: identity.NewName("api")}
	p.td = spiffeid.RequireTrustDomainFromString("11111111-2222-3333-4444-555555555555.consul")
	p.cp = newControlPlane(t, p.m, p.td)
	for _, d := range makeDoors(t, p.m, p.api) {
		if d.proxy.Inbound.Protocol == catalog.HTTP {
			two := d
			two.proxy.ID += "-2"
			two.proxy.Instance += "-2"
			two.proxy.Inbound.Protocol, two.proxy.Inbound.Port, two.proxy.Inbound.LocalPort = catalog.HTTP2, uint16(p.m.Port()), serveHTTP2(t)
			two.proxy.Upstreams = []catalog.Upstream{{Destination: identity.NewName("marker"), BindAddress: "127.0.0.1", BindPort: uint16(p.m.Port())}}
			p.doors = append(p.doors, d, two)
		}
	}
	p.publish(intention.Allow)
	for n, d := range p.doors {
		p.doors[n].car = p.cp.startEnvoy(t, p.m, version, p.api, d.proxy)
	}
	return p
}

// serveHTTP2 is an application that answers everything, in HTTP/2 without TLS.
func serveHTTP2(t *testing.T) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })}
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// publish has these intentions hold, and returns when all Envoys have accepted that.
func (p *permitting) publish(otherwise intention.Action, all ...intention.Intention) {
	p.t.Helper()
	p.changes++
	for i := range all {
		all[i].Destination = p.api
	}
	contents := catalogtest.Mesh{
		Mesh:       catalog.Mesh{TrustDomain: p.td, Datacenter: decisiontable.Datacenter, Datacenters: []string{decisiontable.Datacenter}, Default: otherwise},
		Intentions: all,
		Endpoints:  []catalog.Endpoints{{Name: identity.NewName("marker"), List: []catalog.Endpoint{{Address: "127.0.0.1", Port: uint16(p.changes), Weight: 1, Healthy: true}}}},
	}
	for _, d := range p.doors {
		contents.Proxies = append(contents.Proxies, d.proxy)
	}
	since := time.Now()
	p.cp.store.Publish(contents.Contents())
	if p.doors[0].car != nil {
		p.cp.awaitSync(p.t, since)
	}
}

func (p *permitting) client(service string) meshtest.Client {
	return meshtest.Client{Certificate: p.m.Authority().Issue(p.t, meshtest.LeafSpec{URIs: []string{
		identity.Service{TrustDomain: p.td, Datacenter: decisiontable.Datacenter, Name: identity.NewName(service)}.String(),
	}})}
}

// wires are connections of a source to each door over both versions of HTTP.
func (p *permitting) wires(client meshtest.Client) (all []*wire) {
	for _, d := range p.doors {
		all = append(all, &wire{client: client, addr: d.addr(), h2: d.proxy.Inbound.Protocol == catalog.HTTP2})
	}
	return all
}

// onEach does something for each wire, at once.
func onEach(all []*wire, do func(n int, w *wire)) {
	var wg sync.WaitGroup
	for n, w := range all {
		wg.Go(func() { do(n, w) })
	}
	wg.Wait()
}

func onVersions(t *testing.T, test func(t *testing.T, version string)) {
	for _, version := range []string{meshtest.Version, "1.36.4"} {
		t.Run(version, func(t *testing.T) { test(t, version) })
	}
}

func permits(t *testing.T, list ...intention.Permission) intention.Intention {
	t.Helper()
	of, err := intention.NewPermissions(list)
	if err != nil {
		t.Fatal(err)
	}
	return intention.Intention{Source: intention.Source{Name: identity.NewName("web")}, Permissions: of, Origin: "test"}
}

// TestPermissionsRandom: random permissions and requests; Envoys answer in each mode and over each HTTP as Decide does. With E2E_LONG
// there are 10,000 questions.
func TestPermissionsRandom(t *testing.T) {
	t.Parallel()
	cases, questions := 12, 40
	if os.Getenv(longVariable) != "" {
		cases = 250
	}
	onVersions(t, func(t *testing.T, version string) {
		p := newPermitting(t, version)
		clients := map[string]meshtest.Client{"web": p.client("web"), "db": p.client("db"), "x": p.client("x")}
		var asked, differ, refused atomic.Int64
		all := map[string][]*wire{}
		for source, c := range clients {
			all[source] = p.wires(c)
		}
		for seed := range uint64(cases) {
			c := decisiontable.Random(seed, p.api, p.td, questions)
			p.publish(c.Scope.Default, c.Intentions...)
			onEach(make([]*wire, len(p.doors)), func(n int, _ *wire) {
				for _, peer := range c.Peers {
					id, _ := peer.ID()
					service, _ := id.Service()
					got := all[service.Service][n].ask(peer.Request)
					want := "403"
					if peer.Want == intention.Allow {
						want = "200"
					}
					asked.Add(1)
					if got == "400" || got == "reset" {
						refused.Add(1) // by the codec
					}
					if got != want && got != "400" && got != "reset" || got != want && want == "403" && got == "200" {
						differ.Add(1)
						t.Errorf("seed %d, %s, wire %d: %s, want %s", seed, peer, n, got, want)
					}
				}
			})
		}
		for _, d := range p.doors {
			if n := d.car.Stats()["listener_manager.listener_modified"]; n != 0 {
				t.Errorf("%s: %d listeners modified", d.proxy.ID, n)
			}
		}
		if refused.Load() > asked.Load()/20 {
			t.Errorf("of %d requests %d were refused before any rule", asked.Load(), refused.Load())
		}
		figure(t, "policies=%d questions=%d answers=%d refused_by_codec=%d differ=%d", cases, cases*questions, asked.Load(), refused.Load(), differ.Load())
	})
}

// tricks are ways to write /admin, and paths that are nearly that.
func pathTricks() (all []string) {
	all = strings.Fields(`/admin /app/../admin /app/%2e%2e/admin /app/%2E%2E/admin /app/.%2e/admin /app/./admin /app/%2e/admin //admin /app//../admin ///admin /%2fadmin /app%2f..%2fadmin /app%2F../admin
		/app%5c..%5cadmin /app\..\admin \admin /admin/ /admin; /admin;a=b /app/..;/admin /app/..;x/admin /app;x/../admin /admin%00 /admin%00.html /admin%20 /admin%09 /admin? /app?/../admin /admin%3f /admin#x /admin%23
		/%252e%252e/admin /app/%252e%252e/admin /%c0%ae%c0%ae/admin /%c0%af /app/0x2e0x2e/admin /ADMIN /Admin /%61dmin /adm%69n http://x/admin //x/admin * admin /admin/x /administrator /app /admin?x=/app /app?x=/admin /admin. /admin.. /.admin /admin%
		/admin%2 /admin%zz /admin/.. /admin/. /app/... /admin%2e /admin%2f /admin//`)
	all = append(all, "/"+strings.Repeat("a", 59000))
	for b := 1; b < 256; b++ {
		all = append(all, fmt.Sprintf("/admin%%%02x", b))
	}
	for b := 0x80; b < 256; b++ {
		all = append(all, "/admin"+string([]byte{byte(b)}))
	}
	return all
}

// pathForms are permissions that look at paths, each to deny /admin where all else is allowed, and the other way round.
var pathForms = []intention.Permission{
	{PathExact: "/admin"}, {PathExact: "/admin", Action: intention.Allow},
	{PathPrefix: "/admin"}, {PathPrefix: "/admin", Action: intention.Allow},
	{PathRegex: "/admin(/.*)?"}, {PathRegex: "/admin(/.*)?", Action: intention.Allow},
}

// pathPins is the file that has what becomes of each path, over HTTP/1.1 and HTTP/2, by each form.
const pathPins = "testdata/paths.txt"

// TestPaths holds Envoys to what is written down for each way to write a path, in each mode, also on connections that were there before
// the first rule that looks at paths. What a server that normalises could take for a protected path is never let through.
func TestPaths(t *testing.T) {
	t.Parallel()
	pins := readPins(t)
	onVersions(t, func(t *testing.T, version string) {
		p := newPermitting(t, version)
		web := p.client("web")
		old, fresh := p.wires(web), p.wires(web)
		onEach(old, func(_ int, w *wire) {
			if got := w.ask(&decisiontable.Request{Method: "GET", Path: "/x/../admin"}); got != "200" {
				t.Errorf("without a rule: %s", got)
			}
		})
		tricks := pathTricks()
		seen := make([][2][]string, len(tricks)) // by path, HTTP and form
		var asked atomic.Int64
		for f, form := range pathForms {
			p.publish(intention.Allow-form.Action, permits(t, form))
			policy := catalogtest.Policy(p.api, []intention.Intention{permitsFor(p.api, permits(t, form))}, intention.Scope{TrustDomain: p.td, Datacenters: []string{decisiontable.Datacenter}, Default: intention.Allow - form.Action})
			for _, list := range [][]*wire{fresh, old} {
				answers := make([][]string, len(list))
				onEach(list, func(n int, w *wire) {
					answers[n] = make([]string, len(tricks))
					for i, text := range tricks {
						if w == old[n] && pins[text] != nil && !strings.HasPrefix(pins[text][n%2][f], "2") && pins[text][n%2][f] != "403" {
							continue // its codec ends the connection, which has to stay
						}
						answers[n][i] = w.ask(&decisiontable.Request{Method: "GET", Path: text})
						asked.Add(1)
					}
				})
				for n := range list {
					for i, text := range tricks {
						got := answers[n][i]
						if got == "" {
							continue
						}
						if len(seen[i][n%2]) <= f {
							seen[i][n%2] = append(seen[i][n%2], got)
						}
						if want := pins[text]; want != nil && want[n%2][f] != got {
							t.Errorf("%.80q by form %d over wire %d: %s, want %s", text, f, n, got, want[n%2][f])
						}
						decided := policy.DecideRequestID(identity.ID(identity.Service{TrustDomain: p.td, Datacenter: decisiontable.Datacenter, Name: identity.NewName("web")}.String()), &intention.Request{Method: "GET", Path: text})
						if got == "200" && text != "http://x/admin" && !decided.Allowed() {
							t.Errorf("%.80q by form %d over wire %d is let through, and Decide says %s", text, f, n, decided)
						}
						if got == "200" && form.Action == intention.Deny && normalised(text) == "/admin" {
							t.Errorf("%.80q by form %d over wire %d reaches /admin of a server that normalises", text, f, n)
						}
					}
				}
			}
		}
		for n, w := range old {
			if w.dials != 1 {
				t.Errorf("wire %d of before the first rule was dialled %d times", n, w.dials)
			}
		}
		if len(pins) == 0 {
			writePins(t, tricks, seen)
		}
		figure(t, "paths=%d forms=%d requests=%d", len(tricks), len(pathForms), asked.Load())
	})
}

func permitsFor(api identity.Name, i intention.Intention) intention.Intention {
	i.Destination = api
	return i
}

// normalised is what a server may take a path for that does all that any of them does once.
func normalised(text string) string {
	text, _, _ = strings.Cut(text, "?")
	text, _, _ = strings.Cut(text, "#")
	if rest, ok := strings.CutPrefix(text, "http://x"); ok {
		text = rest
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if c, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(text[i])
	}
	text = strings.ReplaceAll(b.String(), "\xc0\xae", ".")
	if at := strings.IndexByte(text, 0); at >= 0 {
		text = text[:at]
	}
	segments := strings.Split(strings.ReplaceAll(text, `\`, "/"), "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return path.Clean("/"+strings.Join(segments, "/")) + map[bool]string{true: "/"}[strings.HasSuffix(text, "/") && strings.Trim(text, "/") == "admin" && !strings.HasPrefix(text, "//")]
}

// readPins reads lines of a path in quotes and the statuses of each form, over HTTP/1.1 and after a stroke over HTTP/2.
func readPins(t *testing.T) map[string]*[2][]string {
	t.Helper()
	f, err := os.Open(pathPins)
	if os.Getenv("UPDATE_PATHS") != "" {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pins := map[string]*[2][]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		quoted, err := strconv.QuotedPrefix(lines.Text())
		if err != nil {
			continue // a comment
		}
		text, _ := strconv.Unquote(quoted)
		if text == "LONG" {
			text = "/" + strings.Repeat("a", 59000)
		}
		h1, h2, _ := strings.Cut(lines.Text()[len(quoted):], "|")
		pin := &[2][]string{strings.Fields(h1), strings.Fields(h2)}
		if len(pin[0]) != len(pathForms) || len(pin[1]) != len(pathForms) {
			t.Fatalf("%s: %s", pathPins, lines.Text())
		}
		pins[text] = pin
	}
	for _, text := range pathTricks() {
		if pins[text] == nil {
			t.Fatalf("%s has nothing of %.80q: write it anew with UPDATE_PATHS=1 and read what it says", pathPins, text)
		}
	}
	return pins
}

func writePins(t *testing.T, tricks []string, seen [][2][]string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("# What becomes of each path over HTTP/1.1 | HTTP/2: exact /admin denied, allowed alone; prefix /admin; expression /admin(/.*)?, likewise.\n")
	for i, text := range tricks {
		if len(text) > 50000 {
			text = "LONG"
		}
		fmt.Fprintf(&b, "%q %s | %s\n", text, strings.Join(seen[i][0], " "), strings.Join(seen[i][1], " "))
	}
	if err := os.WriteFile(pathPins, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPermissionUnderLoad changes one permission while 500 requests a second are sent on persistent connections: none fails, and each
// change is in force on the next request.
func TestPermissionUnderLoad(t *testing.T) {
	t.Parallel()
	onVersions(t, func(t *testing.T, version string) {
		p := newPermitting(t, version)
		web := p.client("web")
		list := func(open intention.Action) intention.Intention {
			return permits(t, intention.Permission{Action: intention.Allow, PathPrefix: "/load"}, intention.Permission{Action: open, PathExact: "/flip"}, intention.Permission{Action: intention.Allow, Methods: []string{"POST"}})
		}
		p.publish(intention.Deny, list(intention.Deny))
		var sent, failed atomic.Int64
		stop := make(chan struct{})
		var wg sync.WaitGroup
		load, flips := p.wires(web), p.wires(web)
		for _, w := range load {
			wg.Go(func() {
				tick := time.NewTicker(time.Second / 500 * time.Duration(len(load)))
				defer tick.Stop()
				for {
					select {
					case <-stop:
						return
					case <-tick.C:
					}
					sent.Add(1)
					if got := w.ask(&decisiontable.Request{Method: "GET", Path: "/load"}); got != "200" {
						failed.Add(1)
						t.Errorf("under load: %s", got)
					}
				}
			})
		}
		const changes = 20
		wrong := atomic.Int64{}
		for n := range changes {
			open, want := intention.Deny, "403"
			if n%2 == 0 {
				open, want = intention.Allow, "200"
			}
			p.publish(intention.Deny, list(open))
			onEach(flips, func(n int, w *wire) {
				if got := w.ask(&decisiontable.Request{Method: "GET", Path: "/flip"}); got != want {
					wrong.Add(1)
					t.Errorf("wire %d after the change: %s, want %s", n, got, want)
				}
			})
			time.Sleep(200 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		modified := int64(0)
		for _, d := range p.doors {
			modified += d.car.Stats()["listener_manager.listener_modified"]
		}
		for _, w := range append(load, flips...) {
			if w.dials != 1 {
				t.Errorf("a connection was made %d times", w.dials)
			}
		}
		outages := 0
		for _, w := range load {
			outages += w.outages
		}
		if modified != 0 || sent.Load() < 1000 {
			t.Errorf("%d listeners modified, %d requests", modified, sent.Load())
		}
		figure(t, "changes=%d requests=%d failed=%d answered_late=%d late=%d listener_modified=%d", changes, sent.Load(), failed.Load(), outages, wrong.Load(), modified)
	})
}
