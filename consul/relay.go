package consul

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Question is a request of somebody else that is passed on to the agent.
type Question struct {
	Method string // empty: GET
	Path   string // escaped: "/v1/health/service/web"
	// Query is passed on but for token, index and wait.
	Query url.Values
	// Header is sent beside what the other fields say; nil: nothing is.
	Header http.Header
	// Token is the asker's; empty: the question is asked as anybody may ask it. The control plane's own is never used.
	Token string
	// Index, or a parameter hash, has the agent wait for another answer, for Wait at most; 0: it answers at once.
	Index uint64
	Wait  time.Duration
	Body  []byte
}

// Reply is what the agent answered, whatever it was.
type Reply struct {
	Code   int
	Header http.Header
	Body   []byte
	Index  uint64 // 0: it says none
}

// Relay asks the agent and returns its answer. It blocks for Wait, a sixteenth of it and some seconds at most. The error is that
// there was no answer.
func (a *Agent) Relay(ctx context.Context, q Question) (Reply, error) {
	c := a.client
	if !sendable(q.Token) {
		return Reply{Code: http.StatusForbidden, Body: []byte("ACL not found")}, nil
	}
	token := q.Token
	if token == "" {
		token = anonymous
	}
	limit := answerTimeout
	params := url.Values{}
	for name, values := range q.Query {
		if name != "token" && name != "index" && name != "wait" {
			params[name] = values
		}
	}
	if q.Index > 0 {
		params.Set("index", strconv.FormatUint(q.Index, 10))
	}
	if q.Index > 0 || params.Get("hash") != "" { // of which the agent waits for another, too
		limit += q.Wait + q.Wait/16
		params.Set("wait", strconv.FormatInt(q.Wait.Milliseconds(), 10)+"ms")
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, err := c.request(ctx, request{method: q.Method, path: q.Path, params: params}, token)
	if err != nil {
		return Reply{}, err
	}
	maps.Copy(r.Header, q.Header)
	if len(q.Body) > 0 {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(q.Body)), int64(len(q.Body))
		r.Header.Set("Content-Type", "application/json")
	}
	w, err := c.http.Do(r)
	if err != nil {
		return Reply{}, fmt.Errorf("%w: %w", errUnreachable, plain(err))
	}
	defer func() { _ = w.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(w.Body, c.maxBody+1))
	switch {
	case err != nil:
		return Reply{}, fmt.Errorf("%w: its answer breaks off after %d bytes: %w", errUnreachable, len(body), plain(err))
	case int64(len(body)) > c.maxBody:
		return Reply{}, fmt.Errorf("%w: it has more than %d bytes", errGarbled, c.maxBody)
	}
	if q.Token == "" {
		w.Header.Del("X-Consul-Results-Filtered-By-Acls") // Consul tells it only those who bring a token
	}
	return Reply{Code: w.StatusCode, Header: w.Header, Body: body, Index: readMeta(w.Header).index}, nil
}

// Serves reports whether the agent is asked at that address, however either is spelled: the host:port of a listener, or the path of a socket.
func (a *Agent) Serves(address string) bool {
	if path, socket := strings.CutPrefix(a.client.name, "unix://"); socket {
		own, err := os.Stat(address)
		other, errOther := os.Stat(path)
		return err == nil && errOther == nil && os.SameFile(own, other) || filepath.Clean(path) == filepath.Clean(address)
	}
	host, port, err := net.SplitHostPort(a.client.host)
	own, ownPort, errOwn := net.SplitHostPort(address)
	if err != nil || errOwn != nil || port != ownPort {
		return false
	}
	hosts := hostAddresses(host)
	return slices.ContainsFunc(hostAddresses(own), func(ip string) bool { return slices.Contains(hosts, ip) })
}

// hostAddresses are those that a host stands for, in this machine's eyes: of localhost and of all addresses those of the loopback.
func hostAddresses(host string) []string {
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "", strings.EqualFold(host, "localhost"), err == nil && ip.IsUnspecified():
		return []string{"127.0.0.1", "::1"}
	case err == nil:
		return []string{ip.Unmap().String()}
	}
	return []string{strings.ToLower(host)}
}
