// Package remote asks servers outside of the mesh: a CA, a plug-in, an endpoint with another trust domain's bundle. What comes from there is
// awaited no longer than a while, read no further than a bound and followed nowhere that was not named.
package remote

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/backoff"
)

// Config says whom a Client asks, and how.
type Config struct {
	// Name is what the server is called in errors and metrics: "Vault". Required.
	Name string
	// URL is https://HOST[:PORT][/PREFIX], or unix:///PATH/OF/THE/SOCKET. Required.
	URL string
	// RedirectHosts are those (HOST or HOST:PORT) that a redirect may lead to beside that of URL. The question goes there with all its headers.
	RedirectHosts []string
	// RedirectAnywhere lets a redirect lead to any host by https. The question goes there without its headers.
	RedirectAnywhere bool
	// ServerName is what the server's certificate has to be for. Empty: the host of URL.
	ServerName string
	// Verify judges the certificates that the server shows, the leaf first, in the place of CAFile and its host's name: what it returns
	// becomes an error that is Denied. It must not block. Nil: they are judged as is usual.
	Verify func(chain []*x509.Certificate) error
	// CAFile has the roots in PEM that verify the server. Empty: the system's.
	CAFile string
	// CA has the roots in PEM, in the place of CAFile. Empty: CAFile does.
	CA string
	// Reach judges each address that is dialled, after its name was resolved, those of redirects too: what it returns becomes an error
	// that is Denied. It must not block. With it no proxy of the environment is asked, which would resolve names by itself. Nil: all may be.
	Reach func(netip.Addr) error
	// CertFile and KeyFile have what the client proves itself with. Empty: nothing. As CAFile they are read again at each question, and
	// what was read last is used as long as they cannot be.
	CertFile, KeyFile string
	// CAOption is how CAFile is called where it is configured, for errors. Empty: "CAFile".
	CAOption string
	// UIDs are the users that may be at the other end of a Unix socket. Empty: anybody who could make it.
	UIDs []int
	// Timeout bounds a question with all its attempts. Zero: 30 s.
	Timeout time.Duration
	// Attempts is how often a question is asked while the server is unavailable. Zero: 4.
	Attempts int
	// MaxAnswer bounds the body of an answer in bytes. Zero: 1 MiB.
	MaxAnswer int
	// Connections is how many there are to the server at most, and so how many questions at once. The others wait. Zero: 8.
	Connections int
	// Metrics counts the questions. Nil: they are not counted.
	Metrics *Metrics
}

const (
	defaultTimeout     = 30 * time.Second
	defaultAttempts    = 4
	defaultMaxAnswer   = 1 << 20
	defaultConnections = 8
	// firstDelay and longestDelay are between the attempts of a question.
	firstDelay, longestDelay = 250 * time.Millisecond, 8 * time.Second
	// maxRedirects bounds how often a question is sent on.
	maxRedirects = 3
)

// Question is what is asked.
type Question struct {
	// Method is GET if empty.
	Method string
	// Path begins with a slash, and may have a query after it. It follows the URL of the Client.
	Path string
	// Header is sent to all that the Client may ask, Body too, but where RedirectAnywhere alone leads to. Nil: none.
	Header http.Header
	Body   []byte
	// Accept are the statuses that are an answer. Empty: 200 alone.
	Accept []int
	// Once is of a question that must not be asked again if its answer is lost, as the second is answered otherwise.
	Once bool
}

// Answer is what came. Body is complete.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Client asks one server. It may be used by several goroutines.
type Client struct {
	cfg     Config
	base    *url.URL
	socket  string // of a Unix socket
	breaker breaker
	files   files
	// send is what asks; tests have another.
	send func(*http.Request) (*http.Response, error)
}

// New returns a Client that has asked nothing yet. The error is a mistake in cfg; that a file of it cannot be read, or nobody answers, is one of Ask.
func New(cfg Config) (*Client, error) {
	wrong := func(format string, args ...any) (*Client, error) {
		return nil, fmt.Errorf("address %q of %s: %s", redacted(cfg.URL), cfg.Name, fmt.Sprintf(format, args...))
	}
	c := &Client{cfg: cfg}
	c.cfg.Timeout = cmp.Or(cfg.Timeout, defaultTimeout)
	c.cfg.Attempts = cmp.Or(cfg.Attempts, defaultAttempts)
	c.cfg.MaxAnswer = cmp.Or(cfg.MaxAnswer, defaultMaxAnswer)
	c.cfg.Connections = cmp.Or(cfg.Connections, defaultConnections)
	c.cfg.CAOption = cmp.Or(cfg.CAOption, "CAFile")
	c.send = c.overNetwork
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, fmt.Errorf("client certificate for %s: only one of certificate and key is given: give both, or none", cfg.Name)
	}
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		return wrong("is no URL: write https://HOST:PORT or unix:///PATH")
	case u.User != nil:
		return wrong("has a user name in it: leave it out")
	case u.RawQuery != "" || u.Fragment != "":
		return wrong("has a query or a fragment: leave it out")
	case u.Scheme == "https" && u.Hostname() == "":
		return wrong("has no host: write https://HOST:PORT")
	case u.Scheme == "https":
		u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), ""
		c.base = u
	case u.Scheme == "unix":
		if problem := badSocket(u); problem != "" {
			return wrong("%s", problem)
		}
		c.socket, c.base = u.Path, &url.URL{Scheme: "http", Host: "localhost"}
	case u.Scheme == "http":
		return wrong("is in clear text, and what is said there is secret: write https")
	default:
		return wrong("has the scheme %q: write https or unix", u.Scheme)
	}
	cfg.Metrics.prepare(cfg.Name)
	return c, nil
}

// redacted is a URL for errors, without a password that somebody wrote into it.
func redacted(text string) string {
	if u, err := url.Parse(text); err == nil {
		return u.Redacted()
	}
	return "…"
}

// Close ends the connections on which nothing is asked. The Client can be used afterwards.
func (c *Client) Close() { c.files.close() }

// Ask asks until there is an answer, the server has said no, or the Config's Timeout is over. As long as the server is unavailable it asks
// again after a while, unless too many questions have failed in a row: then all fail at once until a moment at which one is tried. It
// blocks until then or until ctx ends. The error is an *Error.
func (c *Client) Ask(ctx context.Context, q Question) (*Answer, error) {
	q.Method = cmp.Or(q.Method, http.MethodGet)
	bounded, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	answer, err := c.ask(ctx, bounded, q)
	if err != nil {
		err.Name, err.Method, err.Path = c.cfg.Name, q.Method, withoutQuery(q.Path)
		err.Address = c.cfg.URL
		c.cfg.Metrics.count(c.cfg.Name, err.Kind.String())
		return nil, err
	}
	c.cfg.Metrics.count(c.cfg.Name, "answered")
	return answer, nil
}

func withoutQuery(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path
}

func (c *Client) ask(ctx, bounded context.Context, q Question) (*Answer, *Error) {
	for attempt := 1; ; attempt++ {
		if held := c.breaker.enter(time.Now()); held != nil {
			return nil, held
		}
		answer, err := c.try(bounded, q)
		if err == nil {
			c.breaker.answered()
			return answer, nil
		}
		err.Attempts = attempt
		if ctx.Err() != nil {
			// That the caller went says nothing about the server.
			c.breaker.abandoned()
			return nil, err
		}
		if err.Kind != Unavailable {
			c.breaker.answered()
			return nil, err
		}
		open := c.breaker.failed(time.Now(), err.RetryAfter)
		c.cfg.Metrics.retried(c.cfg.Name)
		if open || q.Once || attempt >= c.cfg.Attempts {
			return nil, err
		}
		delay := err.RetryAfter + fullJitter(attempt)
		if deadline, _ := bounded.Deadline(); time.Until(deadline) <= delay {
			return nil, err
		}
		if !backoff.Sleep(bounded, delay) {
			return nil, err
		}
	}
}

// fullJitter is how long to wait after a number of attempts: anything up to a bound that doubles, so that those who failed together do
// not come back together.
func fullJitter(attempts int) time.Duration {
	longest := firstDelay
	for n := 1; n < attempts && longest < longestDelay; n++ {
		longest *= 2
	}
	return rand.N(min(longest, longestDelay) + 1)
}

// try asks once, at the server and where it leads to.
func (c *Client) try(ctx context.Context, q Question) (*Answer, *Error) {
	u, err := url.Parse(c.base.String() + q.Path)
	if err != nil || !strings.HasPrefix(q.Path, "/") || u.Host != c.base.Host {
		return nil, &Error{Kind: Invalid, Err: errors.New("what is asked for is no path")}
	}
	for redirects := 0; ; redirects++ {
		answer, problem := c.at(ctx, q, u)
		if problem != nil {
			return nil, problem
		}
		if slices.Contains(q.Accept, answer.Status) || len(q.Accept) == 0 && answer.Status == http.StatusOK {
			return answer, nil
		}
		location := answer.Header.Get("Location")
		if answer.Status/100 != 3 || location == "" {
			return nil, c.refusal(answer)
		}
		if u, problem = c.redirected(q, u, answer.Status, location); problem != nil {
			return nil, problem
		}
		if redirects == maxRedirects {
			return nil, &Error{Kind: Invalid, Status: answer.Status, Err: fmt.Errorf("it leads elsewhere more than %d times", maxRedirects)}
		}
	}
}

// redirected returns where a redirect leads to, if the question may go there.
func (c *Client) redirected(q Question, from *url.URL, status int, location string) (*url.URL, *Error) {
	no := func(format string, args ...any) (*url.URL, *Error) {
		return nil, &Error{Kind: Invalid, Status: status, Err: fmt.Errorf(format, args...)}
	}
	to, err := from.Parse(location)
	switch {
	case err != nil:
		return no("it leads elsewhere, to no URL")
	case c.socket != "":
		return no("it leads to %.200q, but a Unix socket answers by itself", to.Redacted())
	case to.Scheme != "https" || to.User != nil:
		return no("it leads to %.200q, which is not https and a host alone", to.Redacted())
	case c.cfg.RedirectAnywhere && q.Method == http.MethodGet && status != http.StatusNotModified:
	case to.Host != c.base.Host && !slices.Contains(c.cfg.RedirectHosts, to.Host) && !slices.Contains(c.cfg.RedirectHosts, to.Hostname()):
		return no("it leads to %.200q, and nobody said that this host may be asked: name the server that answers, or allow redirects to that one", to.Host)
	case status == http.StatusTemporaryRedirect, status == http.StatusPermanentRedirect:
	case q.Method == http.MethodGet && status != http.StatusNotModified:
	default: // others would have the question asked by GET
		return no("it leads a %s elsewhere", q.Method)
	}
	return to, nil
}

// at asks at u.
func (c *Client) at(ctx context.Context, q Question, u *url.URL) (*Answer, *Error) {
	req, err := http.NewRequestWithContext(ctx, q.Method, u.String(), bytes.NewReader(q.Body))
	if err != nil {
		return nil, &Error{Kind: Invalid, Err: err}
	}
	if q.Header != nil && (u.Host == c.base.Host || slices.Contains(c.cfg.RedirectHosts, u.Host) || slices.Contains(c.cfg.RedirectHosts, u.Hostname())) {
		req.Header = q.Header.Clone()
	}
	req.Header.Set("User-Agent", "sallyport")
	resp, err := c.send(req)
	if err != nil {
		return nil, c.failure(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(c.cfg.MaxAnswer)+1))
	switch {
	case err != nil:
		return nil, c.failure(ctx, fmt.Errorf("the answer broke off: %w", err))
	case len(body) > c.cfg.MaxAnswer:
		return nil, &Error{Kind: Invalid, Status: resp.StatusCode, Err: fmt.Errorf("the answer has more than %d bytes", c.cfg.MaxAnswer)}
	}
	return &Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}
