package consul

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/sds"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Authorizer knows the callers of gRPC calls by their ACL tokens: whoever has service:write on a proxy's service may be that proxy, as
// with Consul's own control plane. Make one with (*Agent).Authorizer; all its methods may be called by several goroutines.
type Authorizer struct {
	agent *Agent

	mu       sync.Mutex
	verdicts map[verdictKey]*verdict
}

// verdictKey is what a verdict is about. The token is kept as its hash.
type verdictKey struct {
	token   [sha256.Size]byte
	service string
}

// verdict is what the agent said last of a token and a service.
type verdict struct {
	asking  sync.Mutex // held while the agent is asked
	mu      sync.Mutex
	known   bool
	err     error // nil: it may
	checked time.Time
	used    time.Time
}

const (
	// freshStream is how old a verdict may be on which a stream is opened, or left open. Agents themselves remember tokens for 30 s
	// (acl_token_ttl), and that together with how often streams are authorized again is to be less than a minute.
	freshStream = 5 * time.Second
	// freshCall is how old one may be on which a call of ext_authz is answered: there is one for each request, and the streams of the same
	// proxy keep it younger.
	freshCall = 60 * time.Second
	// askTimeout bounds how long the agent is waited for.
	askTimeout = 2 * time.Second
	// forgetAfter is when a verdict that nobody asks for is forgotten.
	forgetAfter = 10 * time.Minute
	// mostVerdicts bounds how many are remembered: beyond it those of tokens that may not are forgotten first.
	mostVerdicts = 10_000
	// longestToken is more than any of Consul's tokens has.
	longestToken = 4096
)

const (
	// scheme is what stands before the token in the authorization header. It is compared without case (RFC 9110, 11.1).
	scheme = "bearer "
	// destinationKey is the metadata in which calls of ext_authz name the service that is asked about.
	destinationKey = "x-sallyport-destination"
)

// Authorizer returns the authorizer of the agent's proxies.
func (a *Agent) Authorizer() *Authorizer {
	return &Authorizer{agent: a, verdicts: map[verdictKey]*verdict{}}
}

// Authorize returns the proxy that the call of ctx comes from: the connect-proxy of this node whose ID is node.id, if the token that came
// with the call has service:write on its service. node may be nil, as in calls of ext_authz; then it is a proxy of the service that
// the call names. Without a token a caller has the rights of Consul's anonymous token; where ACLs are off, everybody is let in, as in Consul.
//
// The agent is asked at most every few seconds for each token, so a stream may be authorized again as often as one likes: that is how a
// token that was deleted or lost its rights is noticed. As long as the agent does not answer the last verdict holds.
//
// It blocks for 2 s at most. Errors are gRPC statuses: Unauthenticated for a token that Consul does not know, PermissionDenied for one without the
// right, NotFound for a proxy that is not on this node, Unavailable as long as that cannot be known.
func (z *Authorizer) Authorize(ctx context.Context, node *corev3.Node) (sds.Caller, error) {
	token, err := bearer(ctx)
	if err != nil {
		return sds.Caller{}, err
	}
	p, err := z.proxy(ctx, node)
	if err != nil {
		return sds.Caller{}, err
	}
	fresh := freshStream
	if node == nil {
		fresh = freshCall
	}
	if err := z.check(ctx, token, p.Service.Service, fresh); err != nil {
		return sds.Caller{}, err
	}
	return sds.Caller{Proxy: p.ID, Token: token}, nil
}

// bearer is the token of a call; empty if it has none.
func bearer(ctx context.Context) (string, error) {
	// gRPC joins nothing: each header is a value of its own.
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", status.Error(codes.Unauthenticated, "the call came with several authorization headers; one is right")
	}
	v := values[0]
	if len(v) < len(scheme)-1 || !strings.EqualFold(v[:len(scheme)-1], scheme[:len(scheme)-1]) {
		return "", status.Error(codes.Unauthenticated, `the authorization header does not say "Bearer <token>"`)
	}
	token := strings.TrimSpace(v[len(scheme)-1:])
	if len(token) > longestToken || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", status.Error(codes.Unauthenticated, "the token is none of Consul's")
	}
	return token, nil
}

// proxy is the proxy that a call says it comes from.
func (z *Authorizer) proxy(ctx context.Context, node *corev3.Node) (*catalog.Proxy, error) {
	all, ok := z.agent.proxies.Load()
	if !ok {
		return nil, status.Error(codes.Unavailable, "the proxies of this node are not known yet: the Consul agent has not answered")
	}
	if node != nil {
		if p := all[catalog.ProxyID(node.GetId())]; p != nil && !p.Service.IsWildcard() && p.Service.Service != "" {
			return p, nil
		}
		return nil, status.Errorf(codes.NotFound, "there is no connect-proxy with the ID %.64q on this node of Consul", node.GetId())
	}
	values := metadata.ValueFromIncomingContext(ctx, destinationKey)
	if len(values) != 1 {
		return nil, status.Errorf(codes.Unauthenticated, "the call does not name the service that it is about (%s)", destinationKey)
	}
	var found *catalog.Proxy
	for _, p := range all {
		if p.Service.String() == values[0] && (found == nil || p.ID < found.ID) {
			found = p
		}
	}
	if found == nil {
		return nil, status.Errorf(codes.NotFound, "there is no connect-proxy of the service %.64q on this node of Consul", values[0])
	}
	return found, nil
}

// check says whether a token has service:write, on a verdict that is not older than fresh.
func (z *Authorizer) check(ctx context.Context, token, service string, fresh time.Duration) error {
	v := z.verdict(verdictKey{sha256.Sum256([]byte(token)), service})
	if err, ok := v.load(fresh); ok {
		return err
	}
	v.asking.Lock()
	defer v.asking.Unlock()
	if err, ok := v.load(fresh); ok { // somebody else has asked meanwhile
		return err
	}
	if _, lost, _, _ := z.agent.client.contact.state(); !lost.IsZero() {
		if err, ok := v.load(0); ok {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err, ok := z.agent.mayWrite(ctx, token, service)
	if !ok {
		z.agent.log.Warn("token not checked, the last verdict holds", "service", service, "err", err)
		if err, ok := v.load(0); ok {
			return err
		}
		return status.Error(codes.Unavailable, "the token cannot be checked: the Consul agent does not answer as it should")
	}
	v.store(err)
	return err
}

// mayWrite asks the agent whether a token has service:write. ok is false if it did not say; err is why not then.
func (a *Agent) mayWrite(ctx context.Context, token, service string) (err error, ok bool) {
	type access struct {
		Resource, Segment, Access string
		Allow                     bool `json:",omitempty"` // of the answer: a question that has it is refused
	}
	got, err := a.client.do(ctx, request{
		path: "/v1/internal/acl/authorize", caller: true, token: token, patience: askTimeout,
		body: []access{{Resource: "service", Segment: service, Access: "write"}},
	})
	var no *statusError
	switch {
	case errors.As(err, &no) && no.code == http.StatusUnauthorized && no.text == "ACL support disabled":
		return nil, true
	case errors.As(err, &no) && no.code == http.StatusForbidden:
		return status.Errorf(codes.Unauthenticated, "Consul does not take the token: %s", no.text), true
	case err != nil:
		return err, false
	}
	answer, err := decodeJSON[[]access](got.body)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errGarbled, err), false
	case len(answer) != 1 || answer[0].Resource != "service" || answer[0].Segment != service || answer[0].Access != "write":
		return fmt.Errorf("%w: it is about something else", errGarbled), false
	case !answer[0].Allow:
		return status.Errorf(codes.PermissionDenied, "the token has no service:write on %q", service), true
	}
	return nil, true
}

// verdict is what is remembered under a key.
func (z *Authorizer) verdict(k verdictKey) *verdict {
	now := time.Now()
	z.mu.Lock()
	defer z.mu.Unlock()
	v := z.verdicts[k]
	if v == nil {
		if len(z.verdicts) >= mostVerdicts {
			z.sweep(now)
		}
		v = &verdict{}
		z.verdicts[k] = v
	}
	v.mu.Lock()
	v.used = now
	v.mu.Unlock()
	return v
}

// sweep forgets what nobody asks for; if that is nothing, what denies, and at last everything but what allows.
func (z *Authorizer) sweep(now time.Time) {
	maps.DeleteFunc(z.verdicts, func(_ verdictKey, v *verdict) bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return now.Sub(v.used) > forgetAfter || !v.known || v.err != nil
	})
}

// load is the verdict, if there is one and it is not older than fresh; 0: however old.
func (v *verdict) load(fresh time.Duration) (err error, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err, v.known && (fresh == 0 || time.Since(v.checked) <= fresh)
}

func (v *verdict) store(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known, v.err, v.checked = true, err, time.Now()
}
