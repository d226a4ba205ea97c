package token

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Authority judges tokens: an Issuer those that it has minted, Consul's agent those of Consul. A
// token is empty where a call carries none. Errors are gRPC statuses with a message for Envoy's
// log, without the token in it.
type Authority interface {
	// Stream returns the caller of an xDS stream, if the token may be the proxy that node names.
	Stream(ctx context.Context, token string, node identity.ProxyID) (identity.Caller, error)
	// Call returns the caller of a call of proxy about service, if the token may be that proxy. An
	// empty proxy was not named; then the token's right to the service decides. An Authority that
	// does not know the catalog leaves it to its caller to check that the proxy is one of the
	// service's.
	Call(ctx context.Context, token string, proxy identity.ProxyID, service identity.Name) (identity.Caller, error)
	// Admit is Stream, where service is zero, or Call, by what is known without asking anybody: known
	// is false if that is nothing. It does not block. The proxy of a stream is empty where its headers
	// do not name it.
	Admit(ctx context.Context, token string, proxy identity.ProxyID, service identity.Name) (caller identity.Caller, known bool, err error)
}

// scheme is what stands before the token in the authorization header. It is compared without case
// (RFC 9110, 11.1).
const scheme = "bearer "

// Authorizer reads token and names from the metadata of gRPC calls and has the Authority judge
// them. The Authority is required; its errors are returned as they are.
type Authorizer struct{ Authority Authority }

// Stream returns the caller of the xDS stream of ctx. node is the node.id that its Envoy claims.
func (a Authorizer) Stream(ctx context.Context, node identity.ProxyID) (identity.Caller, error) {
	token, err := bearer(ctx)
	if err != nil {
		return identity.Caller{}, err
	}
	named, err := proxy(ctx)
	if err != nil {
		return identity.Caller{}, err
	}
	if named != "" && named != node {
		return identity.Caller{}, status.Errorf(codes.PermissionDenied, "the stream is of the proxy %.64q, but the node calls itself %.64q", named, node)
	}
	return a.Authority.Stream(ctx, token, node)
}

// Call returns the caller of any other call.
func (a Authorizer) Call(ctx context.Context) (identity.Caller, error) {
	token, err := bearer(ctx)
	if err != nil {
		return identity.Caller{}, err
	}
	service, err := destination(ctx)
	if err != nil {
		return identity.Caller{}, err
	}
	p, err := proxy(ctx)
	if err != nil {
		return identity.Caller{}, err
	}
	return a.Authority.Call(ctx, token, p, service)
}

// Admit judges a stream or call by its headers alone, without blocking. Where that does not do,
// known is false, and the Caller's Proxy is what the headers say, or empty. It is that with an error,
// too.
func (a Authorizer) Admit(ctx context.Context, stream bool) (caller identity.Caller, known bool, err error) {
	named, err := proxy(ctx)
	if err != nil {
		return identity.Caller{}, false, err
	}
	claimed := identity.Caller{Proxy: named}
	token, err := bearer(ctx)
	if err == nil && !stream {
		claimed.Service, err = destination(ctx)
	}
	if err != nil {
		return claimed, false, err
	}
	if caller, known, err = a.Authority.Admit(ctx, token, named, claimed.Service); err != nil || !known {
		return claimed, false, err
	}
	return caller, true, nil
}

// destination is the service that a call is about.
func destination(ctx context.Context) (identity.Name, error) {
	named := metadata.ValueFromIncomingContext(ctx, identity.DestinationHeader)
	if len(named) != 1 || identity.NewName(named[0]).Check() != nil {
		return identity.Name{}, status.Errorf(codes.Unauthenticated, "the call does not name the service that it is about in %s", identity.DestinationHeader)
	}
	return identity.NewName(named[0]), nil
}

// proxy is the proxy that a call names; empty if it names none, as those of older listeners and
// bootstraps.
func proxy(ctx context.Context) (identity.ProxyID, error) {
	named := metadata.ValueFromIncomingContext(ctx, identity.ProxyHeader)
	if len(named) == 0 {
		return "", nil
	}
	id, err := identity.ParseProxyID(named[0])
	if err != nil || id == "" || len(named) > 1 {
		return "", status.Errorf(codes.Unauthenticated, "the call does not name one proxy in %s", identity.ProxyHeader)
	}
	return id, nil
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
		return "", status.Errorf(codes.Unauthenticated, "the call has %d authorization headers, want one", len(values))
	}
	v := values[0]
	if len(v) < len(scheme) || !strings.EqualFold(v[:len(scheme)], scheme) {
		return "", status.Error(codes.Unauthenticated, `the authorization header does not say "Bearer <token>"`)
	}
	if v = v[len(scheme):]; len(v) > maxToken {
		return "", status.Errorf(codes.Unauthenticated, "token of %d bytes is longer than any that is minted", len(v))
	}
	return v, nil
}

// Stream returns the proxy that token was minted for, unless node is another one.
func (i *Issuer) Stream(ctx context.Context, token string, node identity.ProxyID) (identity.Caller, error) {
	return i.Call(ctx, token, node, identity.Name{})
}

// Call returns the proxy that token was minted for, unless the call names another one, or comes, over
// a Unix socket, from a process of another user than the one that the token is bound to. The Caller's
// Token is empty, for nothing behind this control plane asks for it.
func (i *Issuer) Call(ctx context.Context, token string, proxy identity.ProxyID, service identity.Name) (identity.Caller, error) {
	if token == "" {
		return identity.Caller{}, status.Error(codes.Unauthenticated, "the call came without a token: is this Envoy's bootstrap from `sallyport bootstrap` or `sallyport envoy`?")
	}
	v, err := i.verify(token)
	switch {
	case errors.Is(err, errExpired):
		return identity.Caller{}, status.Error(codes.Unauthenticated, err.Error()+": `sallyport envoy` renews it as long as it runs, `sallyport bootstrap` writes a new one")
	case err != nil:
		return identity.Caller{}, status.Error(codes.Unauthenticated, err.Error())
	case proxy != "" && proxy != v.proxy:
		return identity.Caller{}, status.Errorf(codes.PermissionDenied, "the token is %q's, but the caller calls itself %.64q", v.proxy, proxy)
	}
	if uid, ok := peerUID(ctx); ok && !mayBear(uid, v.proof) {
		return identity.Caller{}, status.Errorf(codes.PermissionDenied, "the token is for processes of user %d, the proxy's sallyport_uid, and the caller runs as user %d", v.proof.UID, uid)
	}
	return identity.Caller{Proxy: v.proxy, Service: service, Proof: v.proof}, nil
}

// mayBear reports whether a process of that user may come with a token: root, the control plane's
// own user, and, where the proxy's definition named a user, nobody else but that one.
func mayBear(uid int, f identity.Proof) bool {
	return !f.Bound() || f.UID < 0 || uid == f.UID || uid == 0 || uid == os.Geteuid()
}

// peerUID is the user of the process at the other end of a Unix socket; ok is false for other
// transports.
func peerUID(ctx context.Context) (uid int, ok bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return 0, false
	}
	if a, ok := p.AuthInfo.(interface{ PeerUID() (int, bool) }); ok {
		return a.PeerUID()
	}
	return 0, false
}

// Admit is Call: a signature is verified without asking anybody.
func (i *Issuer) Admit(ctx context.Context, token string, proxy identity.ProxyID, service identity.Name) (identity.Caller, bool, error) {
	caller, err := i.Call(ctx, token, proxy, service)
	return caller, err == nil, err
}
