package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Kind says what to do about an Error.
type Kind int

const (
	// Unavailable is that nobody answers, or not now. Ask again later.
	Unavailable Kind = iota
	// Denied is that the server said no, or is not the one that was meant. Somebody has to change something.
	Denied
	// Invalid is that what came is no answer, or what was asked no question. One of the two programs has to change.
	Invalid
)

func (k Kind) String() string {
	switch k {
	case Unavailable:
		return "unavailable"
	case Denied:
		return "denied"
	case Invalid:
		return "invalid"
	}
	return "kind " + strconv.Itoa(int(k))
}

// Error is that there is no answer. The zero Kind is Unavailable.
type Error struct {
	Kind Kind
	// Name and Address are the server's, as configured; Method and Path are the question's, without its query.
	Name, Address, Method, Path string
	// Status is that of HTTP, and Body what came with it, as much as a Config allows. Zero and nil: it did not come that far.
	Status int
	Body   []byte
	// RetryAfter is how long the server, or the Client itself, wants to be left alone. Zero: nobody said.
	RetryAfter time.Duration
	// Attempts is how often it was asked. Zero: not at all.
	Attempts int
	// Mend says what an operator can do. Empty: nothing is known.
	Mend string
	// Err is the cause. Nil if that is the Status.
	Err error
}

func (e *Error) Unwrap() error { return e.Err }

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %s: %s %s: ", e.Name, redacted(e.Address), e.Method, e.Path)
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	} else {
		fmt.Fprintf(&b, "answered %d", e.Status)
		if len(e.Body) > 0 {
			fmt.Fprintf(&b, " %.300q", e.Body)
		}
	}
	if e.Attempts > 1 {
		fmt.Fprintf(&b, " (asked %d times)", e.Attempts)
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, "; not asked again for %s", e.RetryAfter.Round(time.Second))
	}
	if e.Mend != "" {
		b.WriteString(": " + e.Mend)
	}
	return b.String()
}

// maxRetryAfter bounds what a server can ask for.
const maxRetryAfter = time.Hour

// refusal is the Error for a status that is no answer.
func (c *Client) refusal(answer *Answer) *Error {
	e := &Error{Status: answer.Status, Body: answer.Body}
	switch {
	case answer.Status == http.StatusTooManyRequests || answer.Status/100 == 5:
		e.RetryAfter = retryAfter(answer.Header.Get("Retry-After"), time.Now())
	case answer.Status/100 == 4:
		e.Kind = Denied
	default:
		e.Kind = Invalid
	}
	return e
}

// retryAfter reads the header of that name (RFC 9110, 10.2.3): seconds, or a date. Zero if it says nothing.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(text); err == nil {
		return min(max(0, t.Sub(now)), maxRetryAfter)
	}
	return 0
}

// certificateAlerts are those by which a server refuses a client's certificate (RFC 8446, 6.2; 40 and 41 are of TLS 1.2), as crypto/tls
// words them: it exports no other form of them.
var certificateAlerts = func() (list []string) {
	for _, alert := range []tls.AlertError{40, 41, 42, 43, 44, 45, 46, 48, 49, 116} {
		list = append(list, alert.Error())
	}
	return list
}()

// failure is the Error for a question to which no complete answer came.
func (c *Client) failure(ctx context.Context, err error) *Error {
	e := &Error{Err: err}
	var (
		stale     *staleFiles
		unknown   x509.UnknownAuthorityError
		name      x509.HostnameError
		untrusted *tls.CertificateVerificationError
		clear     tls.RecordHeaderError
		remote    *net.OpError
		wrongUser *wrongUser
		refused   *refusedServer
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
		e.Err = fmt.Errorf("no answer within %s: %w", c.cfg.Timeout, err)
	case errors.Is(err, errUnread):
		e.Kind = Denied
	case errors.As(err, &refused): // before what it may wrap
		e.Kind = Denied
	case errors.As(err, &wrongUser):
		e.Kind = Denied
		e.Mend = "run it as one of those, or allow its user"
	case errors.As(err, &unknown):
		e.Kind = Denied
		e.Mend = "name the CA of the server's certificate: " + c.cfg.CAOption
	case errors.As(err, &name):
		e.Kind = Denied
		e.Mend = "ask it by a name of its certificate, or set the name that is expected"
	case errors.As(err, &untrusted):
		e.Kind = Denied
	case errors.As(err, &clear):
		e.Kind = Invalid
		e.Mend = "it speaks no TLS there: turn that on"
	case errors.As(err, &remote) && slices.Contains(certificateAlerts, remote.Err.Error()):
		e.Kind = Denied
		e.Mend = "it wants a client certificate, another one, or another kind of TLS"
	case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist):
		e.Mend = "is it running?"
	case errors.Is(err, os.ErrPermission):
		e.Kind = Denied
		e.Mend = "the user of this process may not connect to the socket"
	}
	if errors.As(err, &stale) {
		e.Mend = strings.TrimPrefix(e.Mend+"; ", "; ") + stale.problem.Error()
	}
	return e
}
