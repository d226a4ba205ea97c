//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestAPIFloods has processes of another user flood the HTTP API, in each way in which one that answers HTTP can be. Meanwhile an application's
// authorizations are answered, all of them, and as soon as by a server beside it that nobody floods; memory and goroutines stay bounded and come back.
func TestAPIFloods(t *testing.T) { // it needs the machine for itself
	needRoot(t)
	// 20,000 connections, or as many as a third of the files that may be open, of 24 KiB, beside what floods may take that are no connections.
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	most := int64(200<<20 + min(20_000, files.Cur/3)*24<<10)
	lasting := 1200 * time.Millisecond
	if os.Getenv(longVariable) != "" {
		lasting = time.Minute
	}
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Prober: true})
	address := fmt.Sprintf("127.0.0.1:%d", m.Port())
	m.SetFlags("--api-address", address, "--log-level", "info")
	m.Write("api.hcl", "services {\n  name = \"api\"\n  port = 8443\n  connect { native = true }\n}\n")
	m.Serve()
	socket := filepath.Join(m.Runtime, "http.sock")
	var tokens []string // one of its own for the caller that is not to be touched, the last one
	for range 5 {
		tokens = append(tokens, strings.TrimSpace(m.MustRun("token", "create", "api")))
	}
	last := len(tokens) - 1
	ask := bystander{socket: socket, token: tokens[last], question: fmt.Sprintf(`{"Target":"api","ClientCertURI":%q}`, m.URI("web"))}
	nobody := copyTestBinary(t)
	serve := m.ServeProcess()
	quiet := ask.during(t, lasting)
	figure(t, "flood=none %s", quiet)
	goroutines, memory := goroutinesOf(t, m), residentMemory(serve.PID())
	for _, f := range []flood{
		{Kind: "waits"},
		{Kind: "headers held"},
		{Kind: "waits with headers"},
		{Kind: "bodies held"},
		{Kind: "unread"},
		{Kind: "silent"},
		{Kind: "idle"},
		{Kind: "slow"},
		{Kind: "pipelined"},
		{Kind: "large"},
		{Kind: "denied"},
		{Kind: "waits", Network: "tcp", Addr: address},
		{Kind: "headers held", Network: "tcp", Addr: address},
		{Kind: "bodies held", Network: "tcp", Addr: address},
	} {
		if f.Network == "" {
			f.Network, f.Addr = "unix", socket
		}
		f.Time, f.Tokens = lasting, tokens[:last]
		t.Run(strings.ReplaceAll(f.Kind, " ", "_")+"/"+f.Network, func(t *testing.T) {
			logged := len(serve.Log())
			peak := watchMemory(serve.PID())
			users := []uint32{65534}
			if f.Kind == "waits" { // who have more connections than there are
				users = append(users, 65533, 65532)
			}
			ended := startAPIFlood(t, nobody, f, users...)
			time.Sleep(lasting / 2)
			a := ask.during(t, lasting/2)
			held := goroutinesOf(t, m)
			got := <-ended
			bytes := peak()
			back := meshtest.Await(t, "the goroutines to be gone", func() error {
				if n := goroutinesOf(t, m); n > goroutines+10 {
					return fmt.Errorf("%d goroutines, %d before", n, goroutines)
				}
				return nil
			})
			figure(t, "flood=%q over=%s got=%v %s peak_MiB=%d goroutines=%d gone_s=%.1f", f.Kind, f.Network, got, a, bytes>>20, held, back.Seconds())
			if a.failed > 0 {
				t.Errorf("%d of %d authorizations failed meanwhile: %s", a.failed, a.n, a.why)
			}
			if bound := max(20*a.control, time.Second); a.p99 > bound || a.p50 > bound/4 {
				t.Errorf("authorizations meanwhile take %v, p99 %v; want %v and %v at most", a.p50, a.p99, bound/4, bound)
			}
			if bytes > most {
				t.Errorf("the control plane took %d MiB", bytes>>20)
			}
			if n := len(serve.Log()) - logged; n > 256<<10 {
				t.Errorf("%d KiB were logged", n>>10)
			}
			if want := map[string]string{"headers held": "429", "bodies held": "429", "slow": "429", "waits with headers": "431", "large": "431", "denied": "403"}[f.Kind]; want != "" && got[want] == 0 {
				t.Errorf("%v: nobody was told %s", got, want)
			}
			if f.Kind == "waits" && files.Cur >= 18_000 && got["429"] == 0 { // there are enough connections for more waits than may be
				t.Errorf("%v: nobody waits too often", got)
			}
		})
	}
	meshtest.Await(t, "the memory to be given back", func() error {
		ask.during(t, 200*time.Millisecond) // so that there is garbage to collect
		if n := residentMemory(serve.PID()); n > memory+64<<20 {
			return fmt.Errorf("%d MiB, %d before", n>>20, memory>>20)
		}
		return nil
	})
	nothingInSight(t, m, tokens...)
	figure(t, "memory_MiB before=%d after=%d", memory>>20, residentMemory(serve.PID())>>20)
}

// goroutinesOf is how many goroutines the control plane says that it has.
func goroutinesOf(t *testing.T, m *meshtest.Mesh) int {
	t.Helper()
	found := regexp.MustCompile(`(?m)^go_goroutines (\d+)`).FindStringSubmatch(metrics(t, m))
	if found == nil {
		t.Fatal("the metrics do not say how many goroutines there are")
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// bystander asks for authorizations as an application does that nothing is to happen to.
type bystander struct{ socket, token, question string }

// verdicts are what it got, and how long the answers took; control is the p99 of a server that nobody floods, asked in turns.
type verdicts struct {
	n, failed         int
	p50, p99, control time.Duration
	why               string
}

func (a verdicts) String() string {
	return fmt.Sprintf("asked=%d failed=%d p50_ms=%.1f p99_ms=%.1f control_ms=%.1f", a.n, a.failed, a.p50.Seconds()*1000, a.p99.Seconds()*1000, a.control.Seconds()*1000)
}

// during asks for that long, every tenth time on a new connection.
func (k bystander) during(t *testing.T, d time.Duration) (a verdicts) {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", k.socket)
	}}
	defer tr.CloseIdleConnections()
	nothing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer nothing.Close()
	client, control := http.Client{Transport: tr, Timeout: 10 * time.Second}, nothing.Client()
	ask := func(c *http.Client, url string) (time.Duration, error) {
		began := time.Now()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(k.question))
		if err != nil {
			return 0, err
		}
		r.Header.Set("X-Consul-Token", k.token)
		res, err := c.Do(r)
		if err != nil {
			return time.Since(began), err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("%d %s", res.StatusCode, b)
		}
		return time.Since(began), err
	}
	var took, controls []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end) || a.n < 20; time.Sleep(time.Millisecond) {
		if a.n++; a.n%10 == 0 {
			tr.CloseIdleConnections()
			control.CloseIdleConnections()
		}
		c, err := ask(control, nothing.URL)
		if err != nil {
			t.Fatalf("the control: %v", err)
		}
		controls = append(controls, c)
		c, err = ask(&client, "http://localhost/v1/agent/connect/authorize")
		took = append(took, c)
		if err != nil {
			a.failed++
			a.why = err.Error()
		}
	}
	slices.Sort(took)
	slices.Sort(controls)
	a.p50, a.p99, a.control = took[len(took)/2], took[len(took)*99/100], controls[len(controls)*99/100]
	return a
}

// verdict is one answer.
func (k bystander) verdict(t *testing.T) bool {
	t.Helper()
	text := askAuthorize + fmt.Sprintf("X-Consul-Token: %s\r\nContent-Length: %d\r\n\r\n%s", k.token, len(k.question), k.question)
	_, came := say(t, "unix", k.socket, text, 1)
	return strings.Contains(came, `"Authorized":true`)
}

// startAPIFlood starts a process of each user that floods, and returns how often they were answered what.
func startAPIFlood(t *testing.T, program string, f flood, users ...uint32) <-chan map[string]int {
	t.Helper()
	task, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	got := map[string]int{}
	for _, uid := range users {
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Env = append(meshtest.Environ(), floodVariable+"="+string(task))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		all.Go(func() {
			counts := map[string]int{}
			out, err := cmd.Output()
			if err == nil {
				err = json.Unmarshal(out, &counts)
			}
			if err != nil {
				t.Errorf("the flood: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			for what, n := range counts {
				got[what] += n
			}
		})
	}
	ended := make(chan map[string]int, 1)
	go func() {
		all.Wait()
		ended <- got
	}()
	return ended
}
