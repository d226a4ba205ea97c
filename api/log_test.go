package api

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// record is a log that is read while it is written.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(b)
}

// take is what was written since, with what differs from run to run left out.
func (r *record) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := regexp.MustCompile(`(time|level)=\S+ `).ReplaceAllString(r.b.String(), "")
	text = regexp.MustCompile(`(serial|expires|duration|bytes)=\S+`).ReplaceAllString(text, "$1=…")
	r.b.Reset()
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// TestLog: who got a leaf, once for each, who was denied, once a minute, and with LogRequests who asked for what. No token is in it.
func TestLog(t *testing.T) {
	var out record
	r := start(t, func(c *Config) { c.Logger, c.LogRequests = slog.New(slog.NewTextHandler(&out, nil)), true })
	uri := "spiffe://" + trustDomain.Name() + "/ns/default/dc/dc1/svc/web"
	question := func(peer, method, endpoint, service string, status int) string {
		return fmt.Sprintf(`msg="question answered" audit=request peer=%s method=%s endpoint=%s service=%s status=%d duration=… bytes=…`, peer, method, endpoint, service, status)
	}
	const leaf, authorize = "/v1/agent/connect/ca/leaf/", "/v1/agent/connect/authorize"
	uid := fmt.Sprintf(`"uid %d"`, os.Geteuid())
	for _, tc := range []struct {
		method, path, token, body string
		want                      []string
	}{
		{"GET", leaf + "api", "api", "", []string{
			`msg="leaf handed out" audit=api service=api serial=… expires=… peer=api`, question("api", "GET", leaf, "api", 200),
		}},
		{"GET", leaf + "api", "api", "", []string{question("api", "GET", leaf, "api", 200)}},
		{"GET", leaf + "api?token=web", "api", "", []string{ // the parameter counts first
			`msg=denied audit=denial peer=web endpoint=` + leaf + ` service=api err="Permission denied: web lacks permission 'service:write' on \"api\": ` + remedy + `"`,
			question("web", "GET", leaf, "api", 403),
		}},
		{"GET", leaf + "api", "web", "", []string{question("web", "GET", leaf, "api", 403)}},
		{"GET", leaf + "api", "bogus", "", []string{
			`msg=denied audit=denial peer=` + uid + ` endpoint=` + leaf + ` service=api err="ACL not found"`, question(uid, "GET", leaf, "api", 403),
		}},
		{"GET", leaf + strings.Repeat("y", 5000), "web", "", []string{
			`msg=denied audit=denial peer=web endpoint=` + leaf + ` service=` + strings.Repeat("y", maxLogged) + ` err="Permission denied: web lacks permission 'service:write' on \"` + strings.Repeat("y", maxLogged-60) + `"`,
			question("web", "GET", leaf, strings.Repeat("y", maxLogged), 403),
		}},
		{"GET", leaf + "nosuch", "nosuch", "", []string{question("nosuch", "GET", leaf, "nosuch", 404)}},
		{"POST", authorize, "api", `{"Target":"api","ClientCertURI":"` + uri + `"}`, []string{question("api", "POST", authorize, "api", 200) + " source=" + uri + ` reason="Matched L4 intention: default/web => default/api (Precedence: 9, Action: ALLOW)"`}},
		{"POST", authorize, "web", `{"Target":"api","ClientCertURI":"` + uri + `"}`, []string{
			`msg=denied audit=denial peer=web endpoint=` + authorize + ` service=api err="Permission denied: web lacks permission 'service:write' on \"api\": ` + remedy + `"`,
			question("web", "POST", authorize, "api", 403) + " source=" + uri,
		}},
		{"POST", authorize, "api", `{"Target":"` + strings.Repeat("x", 1000) + `"}`, []string{question(uid, "POST", authorize, strings.Repeat("x", maxLogged), 400)}},
		{"GET", "/v1/connect/intentions/check?source=web&destination=api", "api", "", []string{question("api", "GET", "/v1/connect/intentions/check", "api", 200) + " source=web"}},
		{"GET", "/v1/agent/connect/ca/roots", "", "", []string{question(uid, "GET", "/v1/agent/connect/ca/roots", `""`, 200)}},
	} {
		_ = out.take()
		_ = r.ask(t, tc.method, tc.path, tc.token, tc.body)
		var got []string
		for end := time.Now().Add(10 * time.Second); len(got) < len(tc.want) && time.Now().Before(end); time.Sleep(time.Millisecond) { // a line follows its answer
			for _, line := range out.take() {
				if line != "" {
					got = append(got, line)
				}
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s %s as %q: -want +got:\n%s", tc.method, tc.path, tc.token, diff)
		}
	}
}

// TestDenials: one of each within a minute, and not more than a bound.
func TestDenials(t *testing.T) {
	var ds denials
	now := time.Now()
	for i, want := range []bool{true, false} {
		if got := ds.first(denial{peer: "a"}, "uid 1", now); got != want {
			t.Errorf("%d: %t", i, got)
		}
	}
	if !ds.first(denial{peer: "b"}, "uid 1", now) {
		t.Error("another's is not the first")
	}
	for i := range maxDenials {
		ds.first(denial{peer: "token " + strconv.Itoa(i)}, "uid 2", now)
	}
	if !ds.first(denial{peer: "e"}, "uid 1", now) || len(ds.all) != 3+maxDenialsOfPeer {
		t.Errorf("one peer has %d of its own, or has taken another's", len(ds.all)-3)
	}
	for i := range maxDenials {
		ds.first(denial{peer: strconv.Itoa(i)}, strconv.Itoa(i), now)
	}
	if ds.first(denial{peer: "c"}, "uid 3", now) || len(ds.all) > maxDenials {
		t.Errorf("%d are told apart", len(ds.all))
	}
	if !ds.first(denial{peer: "a"}, "uid 1", now.Add(time.Minute+1)) || len(ds.all) != 1 {
		t.Error("a minute later it is not the first")
	}
}
