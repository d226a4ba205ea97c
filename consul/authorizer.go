package consul

import (
	"context"
	"net"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/sds"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Authorizer knows the callers of gRPC calls by their ACL tokens: whoever has service:write on a proxy's service may be that proxy, as
// with Consul's own control plane. Make one with (*Agent).Authorizer; all its methods may be called by several goroutines.
type Authorizer struct{ agent *Agent }

// longestToken is more than any of Consul's tokens has.
const longestToken = 4096

const (
	// scheme is what stands before the token in the authorization header. It is compared without case (RFC 9110, 11.1).
	scheme = "bearer "
	// destinationKey is the metadata in which calls of ext_authz name the service that is asked about.
	destinationKey = "x-sallyport-destination"
)

// Authorizer returns the authorizer of the agent's proxies.
func (a *Agent) Authorizer() *Authorizer {
	return &Authorizer{agent: a}
}

// Authorize returns the proxy that the call of ctx comes from: the connect-proxy of this node whose ID is node.id, if the token that came
// with the call has service:write on its service. node may be nil, as in calls of ext_authz; then it is a proxy of the service that
// the call names. Without a token a caller has the rights of Consul's anonymous token; where ACLs are off, everybody on this machine is let in, as in Consul, and from others who
// Config.RemoteWithoutACLs lets in.
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
	if err := z.agent.verdicts.check(ctx, token, p.Service.Service, fresh); err != nil {
		return sds.Caller{}, err
	}
	if !z.agent.config.RemoteWithoutACLs && z.agent.verdicts.aclsOff() && remote(ctx) {
		return sds.Caller{}, status.Error(codes.PermissionDenied, "Consul's ACLs are off, so no token says who calls, and the call comes from another machine: it would be given any service's private key (turn ACLs on, or start serve with --xds-without-acls)")
	}
	return sds.Caller{Proxy: p.ID, Token: token}, nil
}

// remote reports whether a call comes from another machine, as far as its address tells. One that tells nothing is taken for remote.
func remote(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return true
	}
	switch a := p.Addr.(type) {
	case *net.UnixAddr:
		return false
	case *net.TCPAddr:
		return !a.IP.IsLoopback()
	}
	return true
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
