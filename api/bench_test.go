package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/intention"
)

// rawClient is a client of one connection that costs next to nothing.
type rawClient struct {
	conn net.Conn
	r    *bufio.Reader
}

func dialRaw(b testing.TB, socket string) *rawClient {
	b.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return &rawClient{c, bufio.NewReader(c)}
}

func requestOf(method, path, token, body string) []byte {
	return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: localhost\r\nX-Consul-Token: %s\r\nContent-Length: %d\r\n\r\n%s", method, path, token, len(body), body)
}

func (c *rawClient) ask(request []byte) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil || !bytes.Contains(line, []byte(" 200 ")) {
		return fmt.Errorf("%s %w", line, err)
	}
	length := 0
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			_, err := c.r.Discard(length)
			return err
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
	}
}

// nothing is a server that decodes the body, sets four headers and answers with body: net/http's own price.
func nothing(b testing.TB, body []byte) (socket string) {
	b.Helper()
	socket = filepath.Join(b.TempDir(), "n")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			var in connectAuthorizeRequest
			if json.NewDecoder(r.Body).Decode(&in) != nil {
				w.WriteHeader(http.StatusBadRequest)
			}
		}
		h := w.Header()
		for _, name := range []string{"Vary", "X-Consul-Default-Acl-Policy", "X-Consul-Knownleader"} {
			h[name] = yes
		}
		h["Content-Type"] = jsonType
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
		_, _ = w.Write(body)
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(l)
	}()
	b.Cleanup(func() {
		_ = s.Close()
		<-ended
	})
	return socket
}

// BenchmarkQuestions asks the server, and one that does nothing, in turns over one connection each: what is to be looked at is
// the ratio.
func BenchmarkQuestions(b *testing.B) {
	r := start(b)
	uri := "spiffe://" + trustDomain.Name() + "/ns/default/dc/dc1/svc/web"
	for _, q := range []struct{ name, method, path, token, body string }{
		{"authorize", "POST", "/v1/agent/connect/authorize", "api", `{"Target":"api","ClientCertURI":"` + uri + `","ClientCertSerial":"01:02"}`},
		{"leaf", "GET", "/v1/agent/connect/ca/leaf/api", "api", ""},
		{"roots", "GET", "/v1/agent/connect/ca/roots", "", ""},
		{"match", "GET", "/v1/connect/intentions/match?by=destination&name=api", "reader", ""},
		{"check", "GET", "/v1/connect/intentions/check?source=web&destination=api", "reader", ""},
		{"health", "GET", "/v1/health/connect/api?passing=1", "reader", ""},
	} {
		b.Run(q.name, func(b *testing.B) {
			a := r.ask(b, q.method, q.path, q.token, q.body)
			if a.code != http.StatusOK {
				b.Fatalf("%d %s", a.code, a.body)
			}
			request := requestOf(q.method, q.path, q.token, q.body)
			ours, bare := dialRaw(b, r.socket), dialRaw(b, nothing(b, []byte(a.body)))
			const rounds, each = 9, 1000
			var p50, p99 [2][]time.Duration
			for b.Loop() {
				for range rounds {
					for side, c := range []*rawClient{ours, bare} {
						took := make([]time.Duration, each)
						for i := range took {
							began := time.Now()
							if err := c.ask(request); err != nil {
								b.Fatal(err)
							}
							took[i] = time.Since(began)
						}
						slices.Sort(took)
						p50[side], p99[side] = append(p50[side], took[each/2]), append(p99[side], took[each*99/100])
					}
				}
			}
			median := func(d []time.Duration) float64 {
				slices.Sort(d)
				return float64(d[len(d)/2])
			}
			b.ReportMetric(median(p50[0])/1000, "p50-µs")
			b.ReportMetric(median(p50[0])/median(p50[1]), "p50-of-bare")
			b.ReportMetric(median(p99[0])/median(p99[1]), "p99-of-bare")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkWaiting has 5,000 questions wait, and measures what each holds, and how long one change takes to answer all.
func BenchmarkWaiting(b *testing.B) {
	const n = 5000
	r := start(b)
	held := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	for b.Loop() {
		first := r.ask(b, "GET", "/v1/connect/intentions/match?by=destination&name=api", "reader", "")
		request := func(i int) []byte {
			return requestOf("GET", fmt.Sprintf("/v1/connect/intentions/match?by=destination&name=api&wait=5m&index=%d", first.index(b)), fmt.Sprintf("%d-api", i/900), "")
		}
		before := held()
		conns := make([]*rawClient, n)
		for i := range conns {
			c, err := net.Dial("unix", r.socket)
			if err != nil {
				b.Fatal(err)
			}
			conns[i] = &rawClient{conn: c}
			if _, err := c.Write(request(i)); err != nil {
				b.Fatal(err)
			}
		}
		r.await(b, n)
		b.ReportMetric(float64(held()-before)/n/1024, "KiB/wait")
		began := time.Now()
		r.intend("api", "db", intention.Action(time.Now().UnixNano()%2))
		r.intend("api", "db", intention.Allow)
		for i, c := range conns {
			head := make([]byte, 12)
			if _, err := io.ReadFull(c.conn, head); err != nil || !strings.HasSuffix(string(head), "200") {
				b.Fatalf("%d: %s %v", i, head, err)
			}
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-to-answer-all")
		for _, c := range conns {
			_ = c.conn.Close()
		}
		r.await(b, 0)
	}
}
