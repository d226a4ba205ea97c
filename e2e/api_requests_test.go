//go:build e2e

package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// say writes text on a connection of its own, and returns the status codes of the answers, and all that came. After the expected number of
// answers, or when none comes any more, it ends what it says: whoever has gone is not answered any more.
func say(t *testing.T, network, address, text string, expect int) (codes []int, all string) {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	end := func() { _ = c.(interface{ CloseWrite() error }).CloseWrite() }
	go func() { _, _ = io.WriteString(c, text) }() // who is refused early does not read all of it
	defer time.AfterFunc(time.Second, end).Stop()
	var came strings.Builder
	r := bufio.NewReader(io.TeeReader(c, &came))
	for {
		a, err := http.ReadResponse(r, nil)
		if err != nil {
			if errors.Is(err, io.EOF) || len(codes) > 0 {
				return codes, came.String()
			}
			t.Errorf("%.80q: %v", text, err)
			return codes, came.String()
		}
		codes = append(codes, a.StatusCode)
		_, _ = io.Copy(io.Discard, a.Body)
		a.Body.Close()
		if len(codes) == expect {
			end()
		}
	}
}

// smuggled is what is hidden in requests, and is on no list of what may be asked.
const smuggled = "GET /v1/kv/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"

// oddRequest is a request that one server reads otherwise than another, and what it is answered: each code is one request that was understood.
type oddRequest struct {
	name, text string
	want       []int
}

// oddRequests are about body, which path takes with method; cut is the answer if more was announced than comes.
func oddRequests(method, path, token, body string, ok, cut int) []oddRequest {
	head := method + " " + path + " HTTP/1.1\r\nHost: localhost\r\nX-Consul-Token: " + token + "\r\n"
	length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	return []oddRequest{
		{"as it should be", head + length + "\r\n" + body, []int{ok}},
		{"chunks", head + "Transfer-Encoding: chunked\r\n\r\n" + chunked, []int{ok}},
		// The chunks count: what is after them is a request by itself, which is judged.
		{"CL.TE", head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + smuggled, []int{ok, 404}},
		{"TE.CL", head + "Transfer-Encoding: chunked\r\n" + length + "\r\n" + fmt.Sprintf("%x\r\n%s%s\r\n0\r\n\r\n", len(body)+len(smuggled), body, smuggled), []int{ok}},
		{"TE.TE", head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked + smuggled, []int{501}},
		{"TE twice", head + "Transfer-Encoding: chunked, chunked\r\n\r\n" + chunked + smuggled, []int{501}},
		{"TE unknown", head + "Transfer-Encoding: xchunked\r\n\r\n" + chunked + smuggled, []int{501}},
		{"TE with a tab", head + "Transfer-Encoding:\tchunked\r\n\r\n" + chunked + smuggled, []int{ok, 404}},
		{"TE with a vertical tab", head + "Transfer-Encoding: \vchunked\r\n\r\n" + chunked + smuggled, []int{400}},
		{"TE with a blank before the colon", head + "Transfer-Encoding : chunked\r\n\r\n" + chunked + smuggled, []int{400}},
		{"TE folded", head + "Transfer-Encoding:\r\n chunked\r\n\r\n" + chunked + smuggled, []int{ok, 404}},
		{"TE in HTTP/1.0", strings.Replace(head, "1.1", "1.0", 1) + "Transfer-Encoding: chunked\r\n" + length + "\r\n" + chunked + smuggled, []int{400}},
		{"two lengths", head + length + "Content-Length: 0\r\n\r\n" + body + smuggled, []int{400}},
		{"two lengths in one", head + "Content-Length: 0, 5\r\n\r\n" + body + smuggled, []int{400}},
		{"a length with a sign", head + "Content-Length: +5\r\n\r\n" + body + smuggled, []int{400}},
		{"a negative length", head + "Content-Length: -1\r\n\r\n" + body + smuggled, []int{400}},
		{"an endless length", head + "Content-Length: 99999999999999999999\r\n\r\n" + body + smuggled, []int{400}},
		{"a folded field", head + "X: a\r\n b\r\n" + length + "\r\n" + body, []int{ok}},
		{"bare LF", strings.ReplaceAll(head+length+"\r\n", "\r\n", "\n") + body, []int{ok}},
		{"bare CR", head + "X: a\rContent-Length: 0\r\n" + length + "\r\n" + body, []int{400}},
		{"bare LF in chunks", head + "Transfer-Encoding: chunked\r\n\r\n" + strings.ReplaceAll(chunked, "\r\n", "\n") + smuggled, []int{400}},
		{"a chunk that is larger than it says", head + "Transfer-Encoding: chunked\r\n\r\n1\r\n" + body + "\r\n0\r\n\r\n" + smuggled, []int{400}},
		{"a chunk of a negative size", head + "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + body + "\r\n0\r\n\r\n" + smuggled, []int{400}},
		{"a chunk's extension", head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Replace(chunked, "\r\n", ";x=\"\r\n", 1), []int{ok}},
		{"a trailer with a length and a token", head + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n" + strings.TrimSuffix(chunked, "\r\n") + "Content-Length: 0\r\nX-Consul-Token: other\r\n\r\n", []int{400}},
		{"two hosts", head + "Host: evil.example\r\n" + length + "\r\n" + body, []int{400}},
		{"no host", strings.Replace(head, "Host: localhost\r\n", "", 1) + length + "\r\n" + body, []int{400}},
		{"a field with a NUL", head + "X: a\x00b\r\n" + length + "\r\n" + body, []int{400}},
		{"a field without a name", head + ": a\r\n" + length + "\r\n" + body, []int{400}},
		{"a field without a colon", head + "X\r\n" + length + "\r\n" + body, []int{400}},
		{"a blank first", " " + head + length + "\r\n" + body, []int{400}},
		{"a body that is cut off", head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)+len(smuggled)+1) + body + smuggled, []int{cut}},
		{"an upgrade to HTTP/2", head + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n" + length + "\r\n" + body, []int{ok}},
		{"CONNECT", "CONNECT localhost:8500 HTTP/1.1\r\nHost: localhost:8500\r\n\r\n" + smuggled, []int{404, 404}},
		{"TRACE", "TRACE " + path + " HTTP/1.1\r\nHost: localhost\r\nX-Consul-Token: " + token + "\r\n\r\n", []int{405}},
		{"a method in lower case", strings.ToLower(method) + strings.TrimPrefix(head, method) + length + "\r\n" + body, []int{405}},
		{"a line in the path", head[:len(method)+1] + path + "%0d%0aHost:%20x%0d%0a%0d%0a" + head[len(method)+1+len(path):] + length + "\r\n" + body, []int{400}},
		{"a request in the method", "GET\x20/v1/kv/smuggled\x20HTTP/1.1\r\n" + head + length + "\r\n" + body, []int{400}},
	}
}

// sayAll says each of requests and compares the codes.
func sayAll(t *testing.T, network, address string, requests []oddRequest) {
	t.Helper()
	var all sync.WaitGroup
	for _, r := range requests {
		all.Go(func() {
			codes, came := say(t, network, address, r.text, len(r.want))
			if !slices.Equal(codes, r.want) {
				t.Errorf("%s over %s: %v, want %v: %.300q", r.name, network, codes, r.want, came)
			}
			if strings.Contains(came, "Access-Control") {
				t.Errorf("%s: %q", r.name, came)
			}
		})
	}
	all.Wait()
}

// TestOddRequests: requests that two servers read in two ways are refused, or read in one way; foreign host names and pages in browsers get nothing
// over TCP; tokens that are none get nothing.
func TestOddRequests(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	port := m.Port()
	address, socket := fmt.Sprintf("127.0.0.1:%d", port), filepath.Join(m.Runtime, "http.sock")
	m.SetFlags("--api-address", address, "--api-hosts", "api.example")
	m.Add(meshtest.Service{Name: "web"})
	m.Write("api.hcl", "services {\n  name = \"api\"\n  port = 8443\n  connect { native = true }\n}\n")
	m.Serve()
	token := strings.TrimSpace(m.MustRun("token", "create", "api"))
	question := fmt.Sprintf(`{"Target":"api","ClientCertURI":%q}`, m.URI("web"))
	for network, address := range map[string]string{"unix": socket, "tcp": address} {
		sayAll(t, network, address, oddRequests("POST", "/v1/agent/connect/authorize", token, question, 200, 200))
	}
	const public = "/v1/agent/connect/ca/roots"
	hosts := 0
	for host, want := range map[string]int{
		"localhost": 200, "LocalHost": 200, "localhost.": 200, address: 200, "127.0.0.1": 200, "127.8.9.10": 200, "[::1]": 200, "[::1]:8500": 200, "[::ffff:127.0.0.1]": 200, "api.example:80": 200, "API.example.": 200,
		"": 421, "evil.example": 421, fmt.Sprintf("evil.example:%d", port): 421, "localhost.evil": 421, "localhost.evil.": 421, "evil.localhost": 421, "localhost..": 421, "127.0.0.1.evil.example": 421, "127.0.0.1.nip.io": 421,
		"10.0.0.1": 421, "192.168.0.1:8500": 421, "0.0.0.0": 421, "[::]": 421, "[fe80::1]": 421, "[::ffff:10.0.0.1]": 421, "[::1%25lo]": 200, "2130706433": 421, "0x7f.0.0.1": 421, "127.1": 421, "0177.0.0.1": 421,
		"localhost:evil.example:1": 421, "evil.example@localhost": 400, "localhost@evil.example": 400, "localhost/evil": 400, "localhost evil": 400, "localhost,evil.example": 421, "xn--lcalhost-54a": 421, "lоcalhost": 400, "sallyport.api.example": 421,
	} {
		hosts++
		sayAll(t, "tcp", address, []oddRequest{{"host " + host, "GET " + public + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n", []int{want}}})
		if want == 421 && host != "" {
			sayAll(t, "tcp", address, []oddRequest{{"URL of " + host, "GET http://" + strings.ReplaceAll(host, " ", "%20") + public + " HTTP/1.1\r\nHost: localhost\r\n\r\n", []int{map[bool]int{true: 400, false: 421}[host == "localhost:evil.example:1"]}}})
		}
	}
	sayAll(t, "tcp", address, []oddRequest{
		{"HTTP/1.0 without a host", "GET " + public + " HTTP/1.0\r\n\r\n", []int{421}}, {"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled, []int{421}},
	})
	for _, page := range []string{"Origin: http://evil.example", "Origin: null", "Origin: http://localhost", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: x\r\nAccess-Control-Request-Method: PUT"} {
		for _, method := range []string{"GET", "OPTIONS", "POST"} {
			sayAll(t, "tcp", address, []oddRequest{{page, method + " " + public + " HTTP/1.1\r\nHost: localhost\r\n" + page + "\r\n\r\n", []int{403}}})
		}
	}
	sayAll(t, "tcp", address, []oddRequest{
		{"typed in a browser", "GET " + public + " HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: none\r\n\r\n", []int{200}},
		{"OPTIONS", "OPTIONS " + public + " HTTP/1.1\r\nHost: localhost\r\nAccess-Control-Request-Method: GET\r\n\r\n", []int{200}},
	})

	// Tokens: each of these is refused, wherever it stands.
	other := newMesh(t)
	other.Write("api.hcl", "services {\n  name = \"api\"\n  port = 8443\n  connect { native = true }\n}\n")
	other.Serve()
	proxy := makeBootstrap(t, m, "web")
	short := strings.TrimSpace(m.MustRun("token", "create", "api", "--ttl", "1s"))
	part := strings.Split(token, ".")
	header := func(json string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(json)) + "." + part[1] + "." + part[2]
	}
	var key struct{ Alg string }
	b, err := base64.RawURLEncoding.DecodeString(part[0])
	if err == nil {
		err = json.Unmarshal(b, &key)
	}
	if err != nil {
		t.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"another mesh's": strings.TrimSpace(other.MustRun("token", "create", "api")), "a sidecar's": proxy.token, "none": "x", "expired": short,
		"alg none": header(`{"alg":"none"}`), "alg none, unsigned": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + part[1] + ".", "alg None": header(`{"alg":"None"}`), "alg HS256": header(`{"alg":"HS256"}`), "alg ES256": header(`{"alg":"ES256"}`),
		"a kid that is a path": header(`{"alg":"` + key.Alg + `","kid":"../../dev/null"}`), "a key of its own": header(`{"alg":"` + key.Alg + `","jwk":{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}`),
		"a key elsewhere": header(`{"alg":"` + key.Alg + `","jku":"http://127.0.0.1:1/"}`), "critical": header(`{"alg":"` + key.Alg + `","crit":["b64"],"b64":false}`),
		"cut off": token[:len(token)-1], "without a signature": part[0] + "." + part[1] + ".", "two parts": part[0] + "." + part[1], "five parts": token + ".x.y", "twice": token + token, "with a blank": part[0] + ". " + part[1] + "." + part[2],
		"padded": token + "=", "another service": part[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), "api", "web", 1))) + "." + part[2],
		"later": part[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), `"exp":1`, `"exp":9`, 1))) + "." + part[2],
		"JSON":  `{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `"}`,
	}
	for i := 0; i < len(token); i += 7 {
		bad[fmt.Sprint("changed at ", i)] = token[:i] + string(rune('A'+(token[i]+1)%26)) + token[i+1:]
	}
	time.Sleep(2 * time.Second) // until short has expired, to the second
	tokens := 0
	for name, text := range bad {
		if text == token {
			continue
		}
		tokens++
		for _, where := range []string{"X-Consul-Token: " + text, "Authorization: Bearer " + text} {
			sayAll(t, "unix", socket, []oddRequest{{name, "GET /v1/agent/connect/ca/leaf/api HTTP/1.1\r\nHost: localhost\r\n" + where + "\r\n\r\n", []int{403}}})
		}
	}
	sayAll(t, "unix", socket, []oddRequest{
		{"the token", "GET /v1/agent/connect/ca/leaf/api?token=" + token + " HTTP/1.1\r\nHost: localhost\r\n\r\n", []int{200}},
		{"a megabyte", "GET /v1/agent/connect/ca/leaf/api HTTP/1.1\r\nHost: localhost\r\nX-Consul-Token: " + strings.Repeat(token, 1<<20/len(token)) + "\r\n\r\n", []int{431}},
		{"a long one", "GET /v1/agent/connect/ca/leaf/api HTTP/1.1\r\nHost: localhost\r\nX-Consul-Token: " + strings.Repeat(token, 20<<10/len(token)) + "\r\n\r\n", []int{403}},
	})
	// Identities that are not quite web's, which is let in.
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	ask := func(uri string) (code int, body string) {
		text, err := json.Marshal(map[string]string{"Target": "api", "ClientCertURI": uri, "ClientCertSerial": "01"})
		if err != nil {
			t.Fatal(err)
		}
		codes, all := say(t, "unix", socket, askAuthorize+fmt.Sprintf("X-Consul-Token: %s\r\nContent-Length: %d\r\n\r\n%s", token, len(text), text), 1)
		return codes[0], all[strings.Index(all, "\r\n\r\n")+4:]
	}
	web := m.URI("web")
	meshtest.Await(t, "web is let in", func() error {
		if code, body := ask(web); code != 200 || !strings.HasPrefix(body, `{"Authorized":true,`) {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	td, _, _ := strings.Cut(strings.TrimPrefix(web, "spiffe://"), "/")
	spoofs := 0
	for want, uris := range map[int][]string{
		400: {
			"SPIFFE" + web[6:], "Spiffe" + web[6:], " " + web, web + " ", web + "\n", web + "\x00", web + "/", web + "//", web + "?x", web + "#x", web + "%00", web + "\u200b", strings.Replace(web, "://", ":/", 1), web[7:], "https" + web[6:], "CN=" + web, web + "," + web,
			strings.Replace(web, td, strings.ToUpper(td), 1), strings.Replace(web, td, td+":443", 1), strings.Replace(web, td, "x@"+td, 1), strings.Replace(web, td, td+"/", 1), strings.Replace(web, td, "%61"+td[1:], 1), strings.Replace(web, td, "", 1),
			strings.Replace(web, "/svc/", "/svc%2f", 1), strings.Replace(web, "/web", "/%77eb", 1), strings.Replace(web, "/web", "/x/../web", 1), strings.Replace(web, "/web", "/./web", 1), strings.Replace(web, "/web", "/%2e%2e/web", 1), strings.Replace(web, "/svc", "//svc", 1), strings.Replace(web, "/web", "/\u0461eb", 1), strings.Replace(web, "/web", "/w\u0435b", 1), strings.Replace(web, "/web", "/\uff57eb", 1), strings.Replace(web, "/web", "/w*", 1), strings.ReplaceAll(web, "/", "\\"),
			strings.Replace(web, "/ns/", "/ap/default/ns/", 1), strings.Replace(web, "/svc/", "/SVC/", 1), strings.Replace(web, "/dc/dc1", "", 1), web + "/web", "spiffe://" + td, "spiffe://" + td + "/agent/client/dc/dc1/id/web", web + strings.Repeat("x", 2049-len(web)), "", "web", "*",
		},
		200: {
			strings.Replace(web, td, td+".", 1), strings.Replace(web, td, "x"+td, 1), strings.Replace(web, td, td+".evil", 1), strings.Replace(web, ".consul", "xconsul", 1), strings.Replace(web, "/dc1/", "/dc2/", 1), strings.Replace(web, "/dc1/", "/DC1/", 1), strings.Replace(web, "/default/", "/other/", 1), strings.Replace(web, "/default/", "/Default/", 1),
			strings.Replace(web, "/ns/", "/ap/other/ns/", 1), web + "x", strings.Replace(web, "/web", "/Web", 1), strings.Replace(web, "/web", "/WEB", 1), strings.Replace(web, "/web", "/we", 1), strings.Replace(web, "/web", "/web.", 1), strings.Replace(web, "/web", "/api", 1), strings.Replace(web, "/web", "/web-sidecar-proxy", 1),
		},
	} {
		for _, uri := range uris {
			spoofs++
			if code, body := ask(uri); code != want || strings.Contains(body, "true") {
				t.Errorf("authorize of %q: %d %s, want %d and no", uri, code, body, want)
			}
		}
	}
	// And the other way round.
	f, err := subscribe(filepath.Join(m.Runtime, "xds.sock"), subscription{token, proxy.node, secretType, []string{"leaf/web"}}, 5*time.Second)
	if err != nil || f.Err == nil || f.Keys > 0 {
		t.Errorf("an application's token, of an Envoy: %v, %v", f, err)
	}
	nothingInSight(t, m, token, short, proxy.token)
	figure(t, "requests=%d hosts=%d tokens=%d identities=%d", 2*len(oddRequests("", "", "", "", 0, 0)), hosts, tokens, spoofs)
}

// nothingInSight demands that neither keys nor tokens are in what the control plane logs, in its metrics, its status and its profiles.
func nothingInSight(t *testing.T, m *meshtest.Mesh, tokens ...string) {
	t.Helper()
	in := map[string]string{"the log": m.ServeProcess().Log(), "the metrics": metrics(t, m), "the status": m.MustRun("status", "--json")}
	for _, profile := range []string{"goroutine?debug=2", "heap?debug=1"} {
		_, in[profile] = say(t, "unix", filepath.Join(m.Runtime, "admin.sock"), "GET /debug/pprof/"+profile+" HTTP/1.1\r\nHost: x\r\n\r\n", 1)
		if !strings.HasPrefix(in[profile], "HTTP/1.1 200") {
			t.Errorf("%s: %.100q", profile, in[profile])
		}
	}
	for what, text := range in {
		for _, secret := range append([]string{"PRIVATE KEY"}, tokens...) {
			if strings.Contains(text, secret) || strings.Contains(text, secret[len(secret)/2:]) {
				t.Errorf("%s: %.11s… is in sight", what, secret)
			}
		}
	}
}
