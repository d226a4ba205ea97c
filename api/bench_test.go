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
	"sync/atomic"
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

// waiting is a server of nothing but waits: all are answered when the result is called, and arrived counts those that wait.
func waiting(b testing.TB, body []byte) (socket string, arrived *atomic.Int64, wake func()) {
	b.Helper()
	socket, arrived = filepath.Join(b.TempDir(), "w"), &atomic.Int64{}
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	changed := make(chan struct{})
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived.Add(1)
		timer := time.NewTimer(5 * time.Minute)
		defer timer.Stop()
		select {
		case <-changed:
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
		w.Header()["Content-Type"] = jsonType
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
	return socket, arrived, func() { close(changed) }
}

// BenchmarkWaiting has 5,000 questions wait, here and at a server that does nothing else: what each of them holds, and how long it takes
// to answer all of them after one change.
func BenchmarkWaiting(b *testing.B) {
	const n = 5000
	r := start(b)
	held := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	ask := func(socket string, request func(i int) []byte, arrived func() int64, change func()) (kib, ms float64) {
		before := held()
		conns := make([]net.Conn, n)
		for i := range conns {
			c, err := net.Dial("unix", socket)
			if err != nil {
				b.Fatal(err)
			}
			conns[i] = c
			if _, err := c.Write(request(i)); err != nil {
				b.Fatal(err)
			}
		}
		for arrived() != n {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond)
		kib = float64(held()-before) / n / 1024
		began := time.Now()
		change()
		for i, c := range conns {
			head := make([]byte, 12)
			if _, err := io.ReadFull(c, head); err != nil || !strings.HasSuffix(string(head), "200") {
				b.Fatalf("%d: %s %v", i, head, err)
			}
		}
		ms = time.Since(began).Seconds() * 1000
		for _, c := range conns {
			_ = c.Close()
		}
		return kib, ms
	}
	const path = "/v1/connect/intentions/match?by=destination&name=api"
	var kib, ms [2]float64
	for b.Loop() {
		first := r.ask(b, "GET", path, "api", "")
		socket, arrived, wake := waiting(b, []byte(first.body))
		request := func(i int) []byte {
			return requestOf("GET", fmt.Sprintf("%s&wait=5m&index=%d", path, first.index(b)), fmt.Sprintf("%d-api", i/900), "")
		}
		kib[1], ms[1] = ask(socket, request, arrived.Load, wake)
		kib[0], ms[0] = ask(r.socket, request, r.waits.used, func() { r.intend("api", fmt.Sprintf("s%d", time.Now().UnixNano()), intention.Allow) })
		r.await(b, 0)
	}
	b.ReportMetric(kib[0], "KiB/wait")
	b.ReportMetric(kib[1], "KiB/wait-bare")
	b.ReportMetric(ms[0], "ms-to-answer-all")
	b.ReportMetric(ms[1], "ms-bare")
	b.ReportMetric(0, "ns/op")
}
