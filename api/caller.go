package api

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/identity"
)

// Caller is who asks.
type Caller struct {
	// ID tells callers apart, in bounds and in the record of leafs: "token 7QK…", "uid 1000", "10.1.2.3". It is no secret.
	ID string
	// Services are those in whose name the caller may act: whose leafs it gets, whose connections it may ask about. Sorted by name.
	Services []identity.Name
	// Reader says that the caller may read all there is but leafs.
	Reader bool
	// Known says that the caller has shown who it is. A caller that is not gets what is public.
	Known bool
	// TCP says that the caller came over TCP, not by a Unix socket.
	TCP bool
	// Process is whom the process of a caller can be named by that brings no token that says who asks: its user, or why nobody can. Nil:
	// nothing is known of it. It is asked for errors alone: looking takes a stack that whoever waits would keep.
	Process func() (uid int, why string)
	// Token is what leafs are fetched with where their source checks it. It is a secret.
	Token string
}

// Unnamed is what Process says, and nothing if it is nil.
func (c *Caller) Unnamed() (uid int, why string) {
	if c.Process == nil {
		return 0, ""
	}
	return c.Process()
}

// Acts reports whether the caller may act in the name of a service.
func (c *Caller) Acts(service identity.Name) bool { return slices.Contains(c.Services, service) }

// sees reports whether the caller may know of what concerns a service.
func (c *Caller) sees(service identity.Name) bool { return c.Reader || c.Acts(service) }

// scope tells callers apart who are answered differently.
func (c *Caller) scope() string {
	if c.Reader {
		return "*"
	}
	var b strings.Builder
	for _, n := range c.Services {
		b.WriteString(n.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// Authority says who asks: by tokens that the control plane issues, or by Consul's ACLs.
type Authority interface {
	// Identify judges the token of a request, which is empty where it has none, and who is at the other end. The text of an error is
	// the answer's; it says nothing of the token.
	Identify(ctx context.Context, token string, peer Peer) (Caller, error)
	// Act is why the caller may not act in the name of a service; nil: it may. leaf says that it would get the service's private key,
	// else it asks who may connect to it.
	Act(ctx context.Context, c *Caller, service identity.Name, leaf bool) error
}

// identify finds out who asks, and refuses tokens that are none. What somebody unknown may ask is said by what is asked.
func (s *Server) identify(r *http.Request, q *question) (err error) {
	peer := peerOf(r)
	token := tokenOf(r, q.query)
	if q.route.public && token == "" {
		q.caller = Caller{ID: peer.Name}
		noteCaller(r, &q.caller, true)
		return nil
	}
	q.caller, err = s.config.Authority.Identify(r.Context(), token, peer)
	switch {
	case err == nil:
		noteCaller(r, &q.caller, false)
	case q.route.public: // a token that has ended keeps nobody from what everybody may have
		q.caller.ID = peer.Name
		noteCaller(r, &q.caller, true)
	default:
		return err
	}
	if q.route.public {
		q.caller = Caller{ID: q.caller.ID} // all are answered alike
	}
	return nil
}

// permit is identify, and refuses those who have not shown who they are.
func (s *Server) permit(r *http.Request, q *question) error {
	if err := s.identify(r, q); err != nil || q.route.public || q.caller.Known {
		return err
	}
	_, why := q.caller.Unnamed()
	return failed(http.StatusForbidden, "Permission denied: the request has no token, and %s: %s", cmp.Or(why, "no service names its process"), remedy)
}

// remedy is what those do who may not ask.
const remedy = "`sallyport token create SERVICE` makes a token for the applications of a service, `--reader` one that reads all but certificates"

// hostAllowed keeps pages that a browser shows from asking in their reader's name: over TCP the Host has to be an IP address or a
// name of the loopback, or one of those that are configured.
func (s *Server) hostAllowed(r *http.Request) bool {
	if _, unix := r.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr); unix {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if host == "localhost" || slices.Contains(s.config.Hosts, host) {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// fromPage reports whether a browser says that a page asks, which is never one of ours: it would ask with its reader's rights, in simple
// requests that no preflight precedes. Browsers send one of the two fields with all that pages ask, but for GETs of old ones.
func fromPage(r *http.Request) bool {
	if _, ok := r.Header["Origin"]; ok {
		return true
	}
	site := r.Header.Get("Sec-Fetch-Site")
	return site != "" && site != "none"
}

// Refused is an error of an Authority with its status code. Its text is the answer's.
func Refused(code int, text string) error { return failure{code, text} }

// Denied is the error for a caller that may not act in the name of a service, in Consul's words, and what it says to do.
func Denied(c *Caller, service identity.Name, advice string) error {
	who := c.ID
	if !c.Known {
		who = "anonymous token"
	}
	return failed(http.StatusForbidden, "Permission denied: %s lacks permission 'service:write' on %q: %s", who, service.String(), advice)
}
