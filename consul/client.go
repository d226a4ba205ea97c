package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/sallyport/sallyport/internal/latest"
)

// client asks the agent. It reads headers itself, as an absent index and an index of zero are not
// the same as one that is there, and bounds what it reads.
type client struct {
	name    string // of the agent, for people
	http    *http.Client
	scheme  string
	host    string
	prefix  string
	auth    *api.HttpBasicAuth
	tokens  *tokenSource
	maxBody int64
	limiter *limiter
	// asking and leafs bound how many chains, and how many leafs, are asked for at one time.
	chainSlots, leafSlots chan struct{}
	contact               *contact
}

// request is one question.
type request struct {
	method string // empty: GET
	path   string // escaped
	params url.Values
	body   any
	text   []byte // the body as it is, instead
	// caller says that the question is asked with token, not with the control plane's own.
	caller bool
	token  string
	index  uint64        // 0: the answer comes at once
	wait   time.Duration // for a change after index
	// patience is how long an answer may take beyond wait. 0: answerTimeout.
	patience time.Duration
}

// anonymous is the secret of Consul's anonymous token. A request with no token at all would be made
// with the default token of the agent, which a caller has no part in.
const anonymous = "anonymous"

// answer is what the agent said.
type answer struct {
	body []byte
	meta
}

// meta is what the headers of an answer say of it.
type meta struct {
	index         uint64 // 0: none
	filtered      bool   // some of it was left out for want of rights
	noLeader      bool
	served        bool          // a server answered, just now, that knows its leader
	age           time.Duration // since it was in touch with the leader
	date          time.Time     // on the agent's clock, in whole seconds; zero: not said
	defaultPolicy string        // "allow", "deny" or empty
	cut           bool          // there was no answer: it was somebody else's turn
	early         bool          // it came long before the time to wait was over, with nothing new
	epoch         uint64        // when it was asked for: indexes of different epochs do not compare
}

// authoritative reports whether what is not in an answer is not there.
func (m meta) authoritative() bool { return !m.filtered && m.index > 0 }

// statusError is an answer that says no.
type statusError struct {
	code int
	text string
	// tokenless says that the control plane asked for itself, and was given no token.
	tokenless bool
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("the agent answered %d", e.code)
	if e.text != "" {
		s += " (" + e.text + ")"
	}
	if e.code == http.StatusForbidden && e.tokenless {
		return s + ": no token was given: give serve one by --token-file or CONSUL_HTTP_TOKEN, with the rights that `sallyport consul policy` prints"
	}
	switch e.code {
	case http.StatusForbidden:
		s += ": does the token have the rights that `sallyport consul policy` prints?"
	case http.StatusTooManyRequests:
		s += ": raise limits.http_max_conns_per_client in the agent's configuration"
	}
	return s
}

// errUnreachable marks that no answer came, or not all of it.
var errUnreachable = errors.New("the agent does not answer")

// errGarbled marks an answer that makes no sense.
var errGarbled = errors.New("the agent's answer makes no sense")

func hasStatus(err error, code int) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == code
}

// do asks. The errors are a *statusError, or wrap errUnreachable or errGarbled, or are about the
// token file.
func (c *client) do(ctx context.Context, r request) (answer, error) {
	token := r.token
	if !r.caller {
		var err error
		if token, err = c.tokens.current(); err != nil {
			return answer{}, err
		}
	} else if token == "" {
		token = anonymous
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	patience := r.patience
	if patience == 0 {
		patience = answerTimeout
	}
	limit := r.wait + r.wait/16 + patience
	timer := time.AfterFunc(limit, cancel)
	defer timer.Stop()
	q, err := c.request(ctx, r, token)
	if err != nil {
		return answer{}, err
	}
	a, err := c.exchange(q, timer)
	if no := (*statusError)(nil); errors.As(err, &no) {
		no.tokenless = token == ""
	}
	if err != nil && !errors.As(err, new(*statusError)) && !errors.Is(err, errGarbled) {
		err = fmt.Errorf("%w: %w", errUnreachable, plain(err))
	}
	return a, err
}

func (c *client) request(ctx context.Context, r request, token string) (*http.Request, error) {
	params := url.Values{}
	maps.Copy(params, r.params)
	if r.index > 0 {
		params.Set("index", strconv.FormatUint(r.index, 10))
		params.Set("wait", strconv.FormatInt(r.wait.Milliseconds(), 10)+"ms")
	}
	path := c.prefix + r.path
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: c.scheme, Host: c.host, Path: decoded, RawPath: path, RawQuery: params.Encode()}
	method, body := http.MethodGet, io.Reader(nil)
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		method, body = http.MethodPost, bytes.NewReader(text)
	}
	if r.text != nil {
		body = bytes.NewReader(r.text)
	}
	if r.method != "" {
		method = r.method
	}
	q, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		q.Header.Set("X-Consul-Token", token)
	}
	if c.auth != nil {
		q.SetBasicAuth(c.auth.Username, c.auth.Password)
	}
	return q, nil
}

// exchange sends q and reads the answer; timer is set anew for its body.
func (c *client) exchange(q *http.Request, timer *time.Timer) (answer, error) {
	w, err := c.http.Do(q)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = w.Body.Close() }()
	timer.Reset(bodyTimeout)
	body, err := io.ReadAll(io.LimitReader(w.Body, c.maxBody+1))
	if err != nil {
		return answer{}, fmt.Errorf("its answer breaks off after %d bytes: %w", len(body), err)
	}
	if int64(len(body)) > c.maxBody {
		return answer{}, fmt.Errorf("%w: it has more than %d bytes", errGarbled, c.maxBody)
	}
	a := answer{body: body, meta: readMeta(w.Header)}
	if w.StatusCode != http.StatusOK {
		return a, &statusError{code: w.StatusCode, text: excerpt(body)}
	}
	return a, nil
}

// plain is err without the URL that http.Client puts before it, which is the same in all and long.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		if errors.Is(u.Err, context.Canceled) {
			return errors.New("it took too long")
		}
		return u.Err
	}
	if errors.Is(err, context.Canceled) {
		return errors.New("it took too long")
	}
	return err
}

// excerpt is the beginning of an error's text, in one line.
func excerpt(body []byte) string {
	const most = 200
	s := strings.ToValidUTF8(string(body[:min(len(body), most)]), "")
	return strings.Join(strings.Fields(s), " ")
}

// readMeta reads what Consul says of an answer (Consul HTTP API, "Blocking queries", "Consistency
// modes", "Agent caching").
func readMeta(h http.Header) meta {
	m := meta{
		filtered: strings.EqualFold(h.Get("X-Consul-Results-Filtered-By-Acls"), "true"),
		// Answers out of the agent's own stream of events always say so, as they ask no server.
		noLeader: strings.EqualFold(h.Get("X-Consul-Knownleader"), "false") &&
			h.Get("X-Consul-Query-Backend") != api.QueryBackendStreaming,
	}
	m.served = strings.EqualFold(h.Get("X-Consul-Knownleader"), "true") && h.Get("X-Cache") == "" &&
		h.Get("X-Consul-Query-Backend") != api.QueryBackendStreaming
	m.index, _ = strconv.ParseUint(h.Get("X-Consul-Index"), 10, 64) // none is 0
	if ms, err := strconv.ParseUint(h.Get("X-Consul-Lastcontact"), 10, 31); err == nil {
		m.age = time.Duration(ms) * time.Millisecond
	}
	if s, err := strconv.ParseUint(h.Get("Age"), 10, 31); err == nil {
		m.age = max(m.age, time.Duration(s)*time.Second)
	}
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		m.date = t
	}
	if p := strings.ToLower(h.Get("X-Consul-Default-Acl-Policy")); p == "allow" || p == "deny" {
		m.defaultPolicy = p
	}
	return m
}

// contact is whether the agent answers.
type contact struct {
	// recovered wakes those who wait for their next try when the agent answers again.
	recovered latest.Value[struct{}]
	// doubted has what is asked now and then asked at once, when a request is not answered: it may
	// be that one alone, and then what else is watched is not to take the agent for lost until the
	// next turn.
	doubted latest.Value[struct{}]

	mu sync.Mutex
	contactState
}

type contactState struct {
	last   time.Time     // the last answer; zero: none
	lost   time.Time     // when it first did not answer since; zero: it answers
	cause  string        // why it last did not answer
	back   time.Time     // when it last answered again after a loss
	served time.Time     // when a server with a leader first answered through it since; zero: none did
	policy string        // the last X-Consul-Default-Acl-Policy
	ahead  time.Duration // of the agent's clock to ours, by its last answer
}

// note takes account of how a request went that was made at some time. That one of before the agent
// came back ends without an answer says nothing of now.
func (c *contact) note(a answer, err error, asked time.Time) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, errUnreachable) {
		if asked.Before(c.back) && c.lost.IsZero() {
			return
		}
		c.cause = err.Error()
		if c.lost.IsZero() {
			c.lost = now
			c.doubted.Set(struct{}{})
		}
		return
	}
	if err != nil && !errors.As(err, new(*statusError)) {
		return // nothing was sent, or something else than an agent answered
	}
	c.last = now
	if !a.date.IsZero() {
		c.ahead = a.date.Sub(now)
	}
	if a.defaultPolicy != "" {
		c.policy = a.defaultPolicy
	}
	if !c.lost.IsZero() {
		c.lost, c.back, c.served = time.Time{}, now, time.Time{}
		c.recovered.Set(struct{}{})
	}
	if err == nil && a.served && c.served.IsZero() && !c.back.IsZero() {
		c.served = now
	}
}

func (c *contact) state() contactState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.contactState
}
