//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// side is web and what it dials, under sidecars of one kind.
type side struct {
	t      *testing.T
	consul *meshtest.Consul
	kind   string // theirs, ours, switched
	web    *meshtest.Sidecar
	port   map[string]int // where web's application dials, by service; "http2" is api by that protocol
	public int            // of api
	dead   int            // where nobody listens
}

// startSides starts the same services under Consul's own control plane, under sallyport's, and under sallyport's with the switches set that make it do as Consul's.
func startSides(t *testing.T) (sides []*side) {
	t.Helper()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := besideConsul(t, c)
	c.PutConfig(map[string]any{"Kind": "proxy-defaults", "Name": "global", "Config": map[string]any{"protocol": "http"}})
	for _, kind := range []string{"theirs", "ours", "switched"} {
		s := &side{t: t, consul: c, kind: kind, port: map[string]int{"http2": m.Port()}, dead: m.Port()}
		sides = append(sides, s)
		type config = map[string]any
		api, db, web, defaults := config{"bind_address": "0.0.0.0", "max_inbound_connections": 5000}, config{"local_idle_timeout_ms": 2000}, config{}, config{
			"Limits": config{"MaxConnections": 5000, "MaxPendingRequests": 5000, "MaxConcurrentRequests": 5000},
		}
		protocols := map[string]string{"api": "http", "grpc": "grpc", "db": "tcp", "bare": ""}
		byHTTP2 := "api"
		if kind == "switched" {
			api["local_request_timeout_ms"], web["accept_http_10"] = 15000, false
			delete(db, "local_idle_timeout_ms")
			defaults["PassiveHealthCheck"] = config{"Interval": "10s"}
			protocols["grpc"], protocols["bare"], byHTTP2 = "http2", "http", "grpc"
		}
		locals := map[string]int{"api": serveMirror(t), "grpc": serveGRPC(t), "db": serveEcho(t, "").Port(), "bare": serveEcho(t, "").Port()}
		configs := map[string]config{"api": api, "db": db}
		upstreams := []config{{"DestinationName": byHTTP2 + "-" + kind, "Datacenter": "dc1", "LocalBindPort": s.port["http2"], "Config": config{"protocol": "http2"}}}
		for name, protocol := range protocols {
			c.PutConfig(config{"Kind": "service-defaults", "Name": name + "-" + kind, "Protocol": protocol})
			m.Intend(name+"-"+kind, meshtest.Intentions{"web-" + kind: "allow"})
			public := m.Port()
			register(c, name+"-"+kind, locals[name], public, config{"Config": configs[name]})
			s.port[name] = m.Port()
			upstreams = append(upstreams, config{"DestinationName": name + "-" + kind, "LocalBindPort": s.port[name]})
			if name == "api" {
				s.public = public
			}
		}
		c.PutConfig(config{"Kind": "service-defaults", "Name": "web-" + kind, "Protocol": "tcp", "UpstreamConfig": config{"Defaults": defaults}})
		register(c, "web-"+kind, 1, m.Port(), config{"Config": web, "Upstreams": upstreams})
	}
	m.Serve()
	for _, s := range sides {
		for _, name := range []string{"api", "grpc", "db", "bare", "web"} {
			if s.kind == "theirs" {
				s.web = c.Envoy(m, name+"-"+s.kind, time.Second)
			} else {
				s.web = m.Sidecar(name + "-" + s.kind)
			}
		}
	}
	c.AwaitChecks()
	for _, s := range sides {
		meshtest.Await(t, "web's sidecar has all, "+s.kind, func() error {
			for _, name := range []string{"api", "grpc", "http2"} {
				if got := askPort(s.port[name], "", "GET / HTTP/1.1", "host: api"); got.err != nil || got.status == http.StatusServiceUnavailable {
					return errors.Join(fmt.Errorf("%s: status %d", name, got.status), got.err)
				}
			}
			return wantAllowed(meshtest.EchoPlain(s.addr("db"), "x"))
		})
	}
	return sides
}

func register(c *meshtest.Consul, name string, local, public int, proxy map[string]any) {
	proxy["LocalServiceAddress"], proxy["LocalServicePort"] = "127.0.0.1", local
	c.Register(map[string]any{"ID": name, "Name": name, "Address": "127.0.0.1", "Port": local, "Connect": map[string]any{"SidecarService": map[string]any{
		"Address": "127.0.0.1", "Port": public, "Proxy": proxy, "Checks": []map[string]any{meshtest.ListeningCheck("127.0.0.1", public, "1s")},
	}}})
}

// mirrored is how many requests for /hold a mirror waits for, 10 s at most.
const mirrored = 1100

// serveMirror is an http application that answers with the head of the request as it came. /slow takes 16 s, /fail is answered with 500, /hold waits until as many are
// there as are expected, and a WebSocket is refused whose Origin is not its Host.
func serveMirror(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	var holding atomic.Int64
	all := make(chan struct{})
	serve := func(c net.Conn) {
		defer c.Close()
		for r := bufio.NewReader(c); ; {
			head, err := readHead(r)
			if err != nil {
				return
			}
			status, headers := "200 OK", ""
			switch path := strings.Fields(head)[1]; path {
			case "/slow":
				time.Sleep(16 * time.Second)
			case "/fail":
				status = "500 Internal Server Error"
			case "/hold":
				if holding.Add(1) == mirrored {
					close(all)
				}
				select {
				case <-all:
				case <-time.After(10 * time.Second):
				}
			case "/socket":
				status = "403 Forbidden"
				if headerOf(head, "origin") == "http://"+headerOf(head, "host") {
					status, headers, head = "101 Switching Protocols", "upgrade: websocket\r\nconnection: upgrade\r\n", ""
				}
			}
			if status[:3] != "101" {
				headers = fmt.Sprintf("content-length: %d\r\n", len(head))
			}
			fmt.Fprintf(c, "HTTP/1.1 %s\r\n%s\r\n%s", status, headers, head)
		}
	}
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

// readHead is all until an empty line.
func readHead(r *bufio.Reader) (head string, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == "\r\n" {
			return head, err
		}
		head += line
	}
}

func headerOf(head, name string) string {
	for line := range strings.Lines(head) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSuffix(value, "\r\n")
		}
	}
	return ""
}

// serveGRPC answers calls with a message of no bytes and the status 0.
func serveGRPC(t *testing.T) (port int) {
	t.Helper()
	s, err := meshtest.ServeHTTP("127.0.0.1:0", "", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		_, _ = w.Write(make([]byte, 5))
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.Port()
}

func (s *side) addr(service string) string { return fmt.Sprintf("127.0.0.1:%d", s.port[service]) }

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

// askPort makes a request of these lines, on a connection of its own.
func askPort(port int, body string, head ...string) (a answer) {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 20*time.Second)
	if err != nil {
		return answer{err: err}
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return answer{err: err}
	}
	if _, err := io.WriteString(conn, strings.Join(head, "\r\n")+"\r\n\r\n"+body); err != nil {
		return answer{err: err}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return answer{status: resp.StatusCode, header: resp.Header}
	}
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b), err}
}

// get makes a request to api.
func (s *side) get(head ...string) answer { return askPort(s.port["api"], "", head...) }

func (s *side) status(head ...string) string {
	a := s.get(head...)
	if a.err != nil {
		return a.err.Error()
	}
	return strconv.Itoa(a.status)
}

// line is a header as the application saw it; of no name the first line.
func (s *side) line(name string, head ...string) string {
	a := s.get(head...)
	if a.err != nil || a.status != http.StatusOK {
		return fmt.Sprint(a.status, " ", a.err)
	}
	if name == "" {
		line, _, _ := strings.Cut(a.body, "\r\n")
		return line
	}
	return headerOf(a.body, name)
}

func present(is, value string) string {
	if value == "" {
		return "not there"
	}
	return is
}

func (s *side) http2() string {
	return strconv.Itoa(askPort(s.port["http2"], "", "GET / HTTP/1.1", "host: api").status)
}

func (s *side) bridged() string {
	a := askPort(s.port["grpc"], string(make([]byte, 5)), "POST /a.B/C HTTP/1.1", "host: grpc", "content-type: application/grpc", "te: trailers", "content-length: 5")
	if a.err != nil || a.status != http.StatusOK {
		return fmt.Sprint(a.status, " ", a.err)
	}
	if a.header.Get("grpc-status") == "" {
		return "its status is lost"
	}
	return "its status is a header"
}

func (s *side) bare() string {
	conn, err := net.Dial("tcp", s.addr("bare"))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	a := meshtest.Exchange(conn, "x\r\n\r\n", 4)
	switch a.Body {
	case "x\r\n\r":
		return "tcp"
	case "HTTP":
		return "http"
	}
	return a.String()
}

func (s *side) idle() string {
	conn, err := net.Dial("tcp", s.addr("db"))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if a := meshtest.Exchange(conn, "x", 1); !a.Allowed() {
		return a.String()
	}
	if err := conn.SetReadDeadline(time.Now().Add(6 * time.Second)); err != nil {
		return err.Error()
	}
	if _, err := conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
		return "ends"
	}
	return "goes on"
}

// callersTimes reads web's configuration: waiting takes an hour.
func (s *side) callersTimes() string {
	var dump struct {
		Configs []struct {
			Listeners []struct {
				State struct {
					Listener struct {
						Name   string
						Chains []struct {
							Filters []struct {
								Config struct {
									Stream *string `json:"stream_idle_timeout"`
									Idle   *string `json:"idle_timeout"`
								} `json:"typed_config"`
							}
						} `json:"filter_chains"`
					}
				} `json:"active_state"`
			} `json:"dynamic_listeners"`
		}
	}
	if err := json.Unmarshal([]byte(s.web.ConfigDump()), &dump); err != nil {
		return err.Error()
	}
	say := func(d *string, unset string) string {
		switch {
		case d == nil:
			return unset
		case *d == "0s":
			return "none"
		}
		return *d
	}
	var times [2]string
	for _, c := range dump.Configs {
		for _, l := range c.Listeners {
			listener := l.State.Listener
			switch {
			case strings.HasPrefix(listener.Name, "api-"+s.kind+":"):
				times[0] = say(listener.Chains[0].Filters[0].Config.Stream, "5 minutes")
			case strings.HasPrefix(listener.Name, "db-"+s.kind+":"):
				times[1] = say(listener.Chains[0].Filters[0].Config.Idle, "an hour")
			}
		}
	}
	return times[0] + " and " + times[1]
}

func (s *side) hold() string {
	var all sync.WaitGroup
	var answered, refused atomic.Int64
	for range mirrored {
		all.Go(func() {
			switch s.get("GET /hold HTTP/1.1", "host: api").status {
			case http.StatusOK:
				answered.Add(1)
			case http.StatusServiceUnavailable:
				refused.Add(1)
			}
		})
	}
	all.Wait()
	switch {
	case answered.Load() == mirrored:
		return "all are answered"
	case answered.Load() == 1024 && refused.Load() == mirrored-1024:
		return "76 get 503"
	}
	return fmt.Sprintf("%d are answered, %d get 503", answered.Load(), refused.Load())
}

// instance makes the agent's servers know another instance of api.
func (s *side) instance(n, port int) {
	name := "api-" + s.kind
	s.consul.Must(http.MethodPut, "/v1/catalog/register", map[string]any{
		"Node": fmt.Sprintf("%s-%d", name, n), "Address": fmt.Sprintf("127.0.0.%d", n),
		"Service": map[string]any{
			"Kind": "connect-proxy", "ID": name, "Service": name + "-sidecar-proxy", "Address": fmt.Sprintf("127.0.0.%d", n), "Port": port,
			"Proxy": map[string]any{"DestinationServiceName": name},
		},
	}, nil)
}

// awaitInstances waits until web's Envoy knows n instances of api.
func (s *side) awaitInstances(n int) {
	meshtest.Await(s.t, fmt.Sprintf("%d instances of api, %s", n, s.kind), func() error {
		got := 0
		for line := range strings.Lines(s.web.Admin("/clusters")) {
			if strings.HasPrefix(line, "api-"+s.kind+".") && strings.Contains(line, "::health_flags::") {
				got++
			}
		}
		if got != n {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
}

func (s *side) failing() string {
	for n := 2; n <= 10; n++ {
		s.instance(n, s.public)
	}
	s.awaitInstances(10)
	for range 120 {
		s.get("GET /fail HTTP/1.1", "host: api")
	}
	return fmt.Sprintf("%d left out for 30 s", s.web.Stats().Sum(`cluster\.api-`+s.kind+`\..*\.outlier_detection\.ejections_active`))
}

func (s *side) refusing() string {
	s.instance(11, s.dead)
	s.awaitInstances(11)
	for range 50 {
		if got := s.status("GET / HTTP/1.1", "host: api"); got != "200" {
			return "some get " + got
		}
	}
	return "all are answered"
}
