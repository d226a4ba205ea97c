//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// asking is somebody who answers Consul's HTTP API.
type asking struct {
	client *http.Client
	token  string
}

// apiAnswer is what a question was answered with.
type apiAnswer struct {
	code   int
	header http.Header
	body   string
}

func (a asking) ask(q apiQuestion) (apiAnswer, error) {
	req, err := http.NewRequest(q.method(), "http://localhost"+q.path(), strings.NewReader(q.body))
	if err != nil {
		return apiAnswer{}, err
	}
	for name, value := range q.headers {
		req.Header.Set(name, value)
	}
	if a.token != "" {
		req.Header.Set("X-Consul-Token", a.token)
	}
	r, err := a.client.Do(req)
	if err != nil {
		return apiAnswer{}, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return apiAnswer{r.StatusCode, r.Header, string(b)}, err
}

func asks(t *testing.T, network, address, token string) asking {
	t.Helper()
	tr := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return asking{&http.Client{Transport: tr, Timeout: 90 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, token}
}

// TestAnswersAreConsuls loads the same definitions into a Consul agent and into a directory of files, and asks both the same questions. Status, headers and
// bodies are the same but for what the table of docs/native.md says, each row of which is needed.
func TestAnswersAreConsuls(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Default: "allow", Node: "sallyport"})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Flags: []string{"--default-intention-policy", "allow"}})
	definitions(t, c, m)
	m.Serve()
	consul, ours := asks(t, "tcp", c.Addr, ""), asks(t, "unix", filepath.Join(m.Runtime, "http.sock"), strings.TrimSpace(m.MustRun("token", "create", "--reader")))
	awaitListening(t, c)

	d := comparison{meant: meantDifferences}
	for _, q := range apiQuestions(apiLines) {
		d.ask(t, consul, ours, "", q)
	}
	d.report(t, "HTTP API beside Consul", 200)
}

// comparison is of two who are asked the same. used counts the answers that each of the meant ones is about.
type comparison struct {
	meant         []meantDifference
	asked, differ int
	used          map[string]int
	askedAlready  map[string]bool
}

// ask asks both. who is the caller, as the differences that are meant call it. What differs and is not meant is an error.
func (d *comparison) ask(t *testing.T, consul, ours asking, who string, q apiQuestion) {
	t.Helper()
	text := who + string(q.line)
	if d.askedAlready == nil {
		d.askedAlready = map[string]bool{}
	}
	if d.askedAlready[text] {
		t.Errorf("asked twice: %s", text)
	}
	d.askedAlready[text] = true
	theirs, err := consul.ask(q)
	switch {
	case errors.Is(err, io.EOF):
		theirs.body = connectionEnds
	case err != nil:
		t.Fatalf("%s: Consul: %v", text, err)
	}
	got, err := ours.ask(q)
	for range 10 { // on a machine that is busy the questions before may still have their turns
		if err != nil || got.code != http.StatusTooManyRequests || theirs.code == http.StatusTooManyRequests {
			break
		}
		time.Sleep(time.Second)
		got, err = ours.ask(q)
	}
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	d.compare(t, text, theirs, got)
}

// compare holds that two answers to the same are the same, but for what is meant.
func (d *comparison) compare(t *testing.T, text string, theirs, got apiAnswer) {
	t.Helper()
	d.asked++
	want, have := compared(theirs), compared(got)
	if cmp.Equal(want, have) {
		return
	}
	d.differ++
	if d.used == nil {
		d.used = map[string]int{}
	}
	_, line, _ := strings.Cut(text, ": ") // without who asks
	for _, m := range d.meant {
		if !m.about.MatchString(text) && !m.about.MatchString(line) {
			continue
		}
		before := fmt.Sprint(want, have)
		m.mend(want, have)
		if fmt.Sprint(want, have) != before {
			d.used[m.what]++
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("%s (-Consul +sallyport):\n%s", text, diff)
	}
}

// report holds that each difference that is meant is one, and in the docs.
func (d *comparison) report(t *testing.T, what string, least int) {
	t.Helper()
	table, err := os.ReadFile("../docs/native.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range d.meant {
		if d.used[m.what] == 0 {
			t.Errorf("no question differs by this: %s", m.what)
		}
		if row := "| " + m.what + " | " + m.why + " |"; !strings.Contains(string(table), row) {
			t.Errorf("docs/native.md lacks the row\n%s", row)
		}
	}
	if d.asked < least {
		t.Errorf("%d questions: at least %d are to be asked", d.asked, least)
	}
	if !t.Failed() {
		fmt.Printf("FIGURE %s: %d asked, %d differ, all meant\n", what, d.asked, d.differ)
	}
}

// definitions are taken by both. Sidecars listen, as Consul looks whether they do.
func definitions(t *testing.T, c *meshtest.Consul, m *meshtest.Mesh) {
	t.Helper()
	ports := make([]any, 5)
	for i := range ports {
		host := "127.0.0.1"
		if i == 1 {
			host = "127.0.0.2" // the sidecar of api-1, which has the address of its service
		}
		l, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	services := fmt.Sprintf(`services {
  name = "web" port = 8080 tags = ["a", "b"] meta { team = "shop" }
  connect { sidecar_service { port = %d proxy {
    upstreams { destination_name = "api" local_bind_port = 5000 }
    upstreams { destination_name = "db" local_bind_port = 5001 local_bind_address = "127.0.0.3" config { connect_timeout_ms = 1000 } }
  } } }
}
services {
  name = "api" id = "api-1" port = 9090 address = "127.0.0.2" tags = ["blue"] weights { passing = 5 warning = 2 } enable_tag_override = true
  check { name = "up" ttl = "10h" status = "passing" }
  connect { sidecar_service { port = %d proxy { config { max_inbound_connections = 7 } } } }
}
services {
  name = "api" id = "api-2" port = 9091 tags = ["green", "x"] meta { version = "2" }
  check { id = "c2" name = "down" notes = "n" ttl = "10h" status = "critical" }
  connect { sidecar_service { port = %d proxy { expose { paths { path = "/healthz" local_path_port = 9091 listener_port = 21599 } } } } }
}
services { name = "db" port = 5432 connect { sidecar_service { port = %d } } }
services { name = "plain" port = 7000 }
services { name = "nat" port = 7443 connect { native = true } }
services {
  name = "Mixed" port = 7001
  checks = [{ name = "one" ttl = "10h" status = "warning" }, { ttl = "10h" status = "passing" }]
  connect { sidecar_service { port = %d } }
}
services { name = "db-own" id = "db-own-1" kind = "connect-proxy" port = 21010 tags = ["own"] proxy { destination_service_name = "db" destination_service_id = "db" local_service_port = 5432 } }
`, ports[0], ports[1], ports[2], ports[3], ports[4])
	entries := []string{
		`Kind = "proxy-defaults" Name = "global" Config { protocol = "http" local_connect_timeout_ms = 1000 }`,
		`Kind = "service-defaults" Name = "db" Protocol = "tcp" MaxInboundConnections = 10 Meta { who = "me" }`,
		`Kind = "service-defaults" Name = "web" Protocol = "http" LocalRequestTimeoutMs = 5000 UpstreamConfig {
  Defaults { ConnectTimeoutMs = 3000 Limits { MaxConnections = 5 } PassiveHealthCheck { Interval = "10s" MaxFailures = 3 } }
  Overrides = [{ Name = "api" ConnectTimeoutMs = 4000 }]
}`,
		`Kind = "mesh" TLS { Incoming { TLSMinVersion = "TLSv1_2" } } HTTP { SanitizeXForwardedClientCert = true }`,
		`Kind = "service-intentions" Name = "api" Sources = [{ Name = "*" Action = "deny" }, { Name = "web" Action = "allow" Description = "d" }, { Name = "Batch" Action = "allow" }] Meta { a = "b" }`,
		`Kind = "service-intentions" Name = "db" Sources = [{ Name = "api" Action = "allow" }, { Name = "legacy" Action = "deny" }]`,
		`Kind = "service-intentions" Name = "*" Sources = [{ Name = "mon" Action = "allow" }, { Name = "*" Action = "deny" }]`,
		`Kind = "service-intentions" Name = "Orders" Sources = [{ Name = "Web" Action = "allow" }]`,
		`Kind = "service-resolver" Name = "shop" DefaultSubset = "v1" ConnectTimeout = "5s" RequestTimeout = "60s" Meta { a = "b" }
Subsets = { v1 = { Filter = "Service.Meta.version == 1" }, v2 = { OnlyPassing = true }, v3 = {} }
Failover = { "*" = { Service = "till", Datacenters = ["dc1"] }, v1 = { Targets = [{ Service = "till" }, { ServiceSubset = "v2", Datacenter = "dc1" }] } }
LoadBalancer = { Policy = "ring_hash", RingHashConfig = { MinimumRingSize = 1024 }, HashPolicies = [
  { Field = "cookie", FieldValue = "id", Terminal = true, CookieConfig = { TTL = "60s", Path = "/x" } }, { Field = "header", FieldValue = "x-User" }, { SourceIP = true }] }`,
		`Kind = "service-resolver" Name = "Till" LoadBalancer { Policy = "least_request" LeastRequestConfig { ChoiceCount = 5 } }`,
		`Kind = "service-resolver" Name = "kiosk" Redirect { Service = "shop" ServiceSubset = "v2" }`,
		`Kind = "service-splitter" Name = "shop" Splits = [
  { Weight = 99.5, ServiceSubset = "v1", RequestHeaders = { Add = { x-A = "1" }, Set = { x-b = "%START_TIME%" }, Remove = ["x-c"] } }, { Weight = 0.5, Service = "till" }, { Weight = 0, ServiceSubset = "v2" }]`,
		`Kind = "service-router" Name = "shop" Routes = [
  { Match = { HTTP = { PathPrefix = "/v1", CaseInsensitive = true, Methods = ["get", "PUT"], Header = [{ Name = "a", Present = true, Invert = true }, { Name = "b", Exact = "1" }],
    QueryParam = [{ Name = "a", Present = true }, { Name = "b", Regex = "1+" }] } },
    Destination = { Service = "till", PrefixRewrite = "/", RequestTimeout = "-1ns", IdleTimeout = "1.5s", NumRetries = 3, RetryOnConnectFailure = true, RetryOn = ["reset", "5xx"],
      RetryOnStatusCodes = [503, 429], RequestHeaders = { Add = { x-A = "1" } } } },
  { Match = { HTTP = { PathExact = "/x" } }, Destination = { NumRetries = 0, RequestTimeout = "0s" } },
  { Match = { HTTP = { PathRegex = "/.*" } } }]`,
	}
	for i, e := range entries {
		name := fmt.Sprintf("entry-%d.hcl", i)
		m.Write(name, e+"\n")
		c.Run("config", "write", c.File(name, e))
	}
	m.Write("services.hcl", services)
	c.Run("services", "register", c.File("services.hcl", services))
}

// awaitListening waits until Consul has found all sidecars listening. It looks at a port every 10 s, and again at a service that is followed
// after a minute, if the first look came before the service had its checks.
func awaitListening(t *testing.T, c *meshtest.Consul) {
	t.Helper()
	_, err := meshtest.Within(90*time.Second, func() error {
		var checks []struct{ ServiceID, Name, Status, Type, Output string }
		if err := c.Do(http.MethodGet, "/v1/health/state/critical", nil, &checks); err != nil {
			return err
		}
		for _, k := range checks {
			// One that follows another service has an output once it has been run.
			if k.Name == "Connect Sidecar Listening" || k.Type == "alias" && k.Output == "" {
				return fmt.Errorf("%s is %s: %s %q", k.ServiceID, k.Status, k.Name, k.Output)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("Consul's checks: %v", err)
	}
}

// apiQuestion is a line "GET /v1/...", and headers and a body.
type apiQuestion struct {
	line    apiLine
	headers map[string]string
	body    string
}

type apiLine string

func (q apiQuestion) method() string { m, _, _ := strings.Cut(string(q.line), " "); return m }

func (q apiQuestion) path() string {
	_, p, _ := strings.Cut(string(q.line), " ")
	p, _, _ = strings.Cut(p, " ")
	return p
}

// compared is an answer without what must differ: the numbers of indexes, hashes, the node's ID, names of the mesh. It is made of maps, lists and texts.
func compared(a apiAnswer) map[string]any {
	out := map[string]any{"code": a.code}
	headers := map[string]any{}
	for _, name := range []string{
		"Content-Type", "Vary", "Allow", "Location", "X-Consul-Default-Acl-Policy", "X-Consul-Index", "X-Consul-Knownleader", "X-Consul-Lastcontact", "X-Consul-Query-Backend",
		"X-Consul-Effective-Consistency", "X-Consul-Contenthash", "X-Cache", "Age", "X-Consul-Results-Filtered-By-Acls",
	} {
		if v, ok := a.header[name]; ok {
			headers[name] = strings.Join(v, ",")
			if name == "X-Consul-Index" || name == "X-Consul-Contenthash" {
				headers[name] = "some"
			}
		}
	}
	out["headers"] = headers
	var v any
	if strings.HasPrefix(a.header.Get("Content-Type"), "application/json") && json.Unmarshal([]byte(a.body), &v) == nil {
		out["body"] = stripped("", v)
		if m, ok := out["body"].(map[string]any); ok { // Consul's tags are in another order each time
			for _, tags := range m {
				if list, ok := tags.([]any); ok {
					slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
				}
			}
		}
		out["ends with a newline"] = strings.HasSuffix(a.body, "\n")
		out["indented"] = strings.Contains(a.body, "\n    ")
	} else {
		out["body"] = a.body
	}
	return out
}

var trustDomainName = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.consul`)

func stripped(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = stripped(k, v[k])
		}
		if _, ok := v["NodeID"]; ok {
			v["NodeID"] = "some"
		}
		if _, ok := v["TaggedAddresses"]; ok && v["Node"] != nil {
			v["ID"] = "some"
		}
	case []any:
		for i := range v {
			v[i] = stripped(key, v[i])
		}
	case string:
		switch key {
		case "ContentHash", "goroutines", "SerialNumber", "ValidAfter", "ValidBefore":
			return "some"
		case "CertPEM", "PrivateKeyPEM":
			return v[:min(len(v), len("-----BEGIN EC PRIVATE KEY-----"))]
		}
		return trustDomainName.ReplaceAllString(v, "TRUSTDOMAIN")
	case float64:
		if key == "CreateIndex" || key == "ModifyIndex" || key == "Hash" {
			return "some"
		}
	}
	return v
}

// meantDifference is a way in which answers are not Consul's, on purpose. mend takes it out of both.
type meantDifference struct {
	what, why string
	about     *regexp.Regexp
	mend      func(theirs, ours map[string]any)
}

// connectionEnds stands for an answer that does not come.
const connectionEnds = "the connection ends"

// each calls f for all maps in v.
func each(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(v)
		for _, k := range slices.Sorted(maps.Keys(v)) {
			each(v[k], f)
		}
	case []any:
		for _, e := range v {
			each(e, f)
		}
	}
}
