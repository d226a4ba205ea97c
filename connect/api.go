package connect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// maxAnswer is how long an answer of the API may be, in bytes.
	maxAnswer = 64 << 20
	// maxErrorText is how much of an error's text is shown.
	maxErrorText = 300
	// askTimeout bounds a question that does not wait for a change.
	askTimeout = 10 * time.Second
	// waitTime is how long a question may wait for a change, and grace what an answer may take beyond
	// that: Consul adds a sixteenth to spread them.
	waitTime = 10 * time.Minute
	grace    = waitTime/16 + 30*time.Second
	// maxIdle is how many connections to the API are kept for the next question.
	maxIdle = 64
)

// api asks the HTTP API. It is safe for concurrent use.
type api struct {
	client  http.Client
	env     environment
	token   *tokenSource
	metrics Metrics
}

func newAPI(o Options) (*api, error) {
	env, err := o.resolve()
	if err != nil {
		return nil, err
	}
	token, err := newTokenSource(env.token, env.tokenFile)
	if err != nil {
		return nil, err
	}
	a := &api{env: env, token: token, metrics: o.Metrics}
	a.client.Transport = o.transport
	if o.transport == nil {
		a.client.Transport = env.transport()
	}
	// An answer that points elsewhere is none: the token would go there too.
	a.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return a, nil
}

func (e environment) transport() *http.Transport {
	dialer := net.Dialer{Timeout: askTimeout}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: e.tls,
		MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: askTimeout,
	}
	if e.socket != "" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", e.socket)
		}
	}
	return t
}

// address names the API in errors.
func (e environment) address() string {
	if e.socket != "" {
		return "unix://" + e.socket
	}
	return e.scheme + "://" + e.host + e.prefix
}

func (a *api) close() { a.client.CloseIdleConnections() }

// answer is what the API said.
type answer struct {
	body []byte
	// index is what to ask with to be answered at the next change; 0: there is none.
	index uint64
}

// get asks for what is at path, whose segments are escaped.
func (a *api) get(ctx context.Context, question, path string, query url.Values) (answer, error) {
	return a.do(ctx, question, http.MethodGet, path, query, nil)
}

func (a *api) do(ctx context.Context, question, method, path string, query url.Values, body []byte) (got answer, err error) {
	began := time.Now()
	defer func() { a.metrics.asked(question, err, time.Since(began)) }()
	target := a.env.scheme + "://" + a.env.host + a.env.prefix + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return answer{}, err
	}
	if token := a.token.get(); token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	if a.env.user != nil {
		password, _ := a.env.user.Password()
		req.SetBasicAuth(a.env.user.Username(), password)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		// What is posted here asks and changes nothing. Without this, which is not sent, a connection
		// that the API closes at this moment fails the question; with it another one is tried.
		req.Header["X-Idempotency-Key"] = nil
	}
	resp, err := a.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the address, which follows, is in its text too, with the whole query
		}
		return answer{}, fmt.Errorf("%s %s at %s: %w", method, path, a.env.address(), err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
		return answer{}, &statusError{
			method: method, path: path, address: a.env.address(), code: resp.StatusCode,
			text: strings.TrimSpace(strings.ToValidUTF8(string(text), "")), remedy: remedy(resp.StatusCode, question),
		}
	}
	got.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(got.body) > maxAnswer {
		err = fmt.Errorf("more than %d MiB", maxAnswer>>20)
	}
	if err != nil {
		return answer{}, fmt.Errorf("answer to %s %s at %s: %w", method, path, a.env.address(), err)
	}
	got.index, _ = strconv.ParseUint(resp.Header.Get("X-Consul-Index"), 10, 64)
	return got, nil
}

// remedy says what to do about a status, for a question.
func remedy(code int, question string) string {
	right := map[string]string{"leaf": "service:write on this service", "authorize": "service:write on this service", "instances": "service:read on the service and node:read", "intentions": "intention:read on this service"}[question]
	switch {
	case code == http.StatusForbidden && right != "":
		return "give CONSUL_HTTP_TOKEN, or the file CONSUL_HTTP_TOKEN_FILE, a token with " + right
	case code == http.StatusTooManyRequests:
		return "the API has too many connections of this address: raise its limit"
	}
	return ""
}
