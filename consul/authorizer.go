package consul

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"strings"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Stream returns the connect-proxy of this node whose ID is node, if token has service:write on its
// service, as with Consul's own control plane. Without a token a caller has the rights of Consul's
// anonymous token, if it is on this machine; where ACLs are off, everybody on this machine is let in, as
// in Consul. From other machines Config.RemoteWithoutACLs alone lets in who has no token that Consul
// knows.
//
// The agent is asked at most every few seconds for each token, so a stream may be authorized again
// as often as one likes: that is how a token that was deleted or lost its rights is noticed. As
// long as the agent does not answer the last verdict holds.
//
// It blocks for 2 s at most. Errors are gRPC statuses: Unauthenticated for a token that Consul does
// not know, PermissionDenied for one without the right, NotFound for a proxy that is not on this
// node, Unavailable as long as that cannot be known.
func (a *Agent) Stream(ctx context.Context, token string, node identity.ProxyID) (identity.Caller, error) {
	all, err := a.registered()
	if err != nil {
		return identity.Caller{}, err
	}
	p := all[node]
	if p == nil || p.Service.IsWildcard() || p.Service.Service == "" {
		return identity.Caller{}, status.Errorf(codes.NotFound, "there is no connect-proxy with the ID %.64q on this node of Consul", node)
	}
	if err := a.may(ctx, token, p.Service, freshStream); err != nil {
		return identity.Caller{}, err
	}
	return identity.Caller{Proxy: node, Token: token}, nil
}

// Call returns the caller of a call of proxy about service, which has to be the service of that
// proxy, if token has service:write on it. If proxy is empty, it is enough that the service has
// a proxy on this node: which one calls is not asked. All else is as with Stream.
func (a *Agent) Call(ctx context.Context, token string, proxy identity.ProxyID, service identity.Name) (identity.Caller, error) {
	all, err := a.registered()
	if err != nil {
		return identity.Caller{}, err
	}
	p := all[proxy]
	known := p != nil && p.Service == service
	if proxy == "" {
		for _, p := range all {
			known = known || p.Service == service
		}
	}
	if !known {
		return identity.Caller{}, status.Errorf(codes.NotFound, "there is no connect-proxy of the service %.64q (with the ID %.64q) on this node of Consul", service, proxy)
	}
	if err := a.may(ctx, token, service, freshCall); err != nil {
		return identity.Caller{}, err
	}
	return identity.Caller{Proxy: proxy, Service: service, Token: token}, nil
}

// Admit is Stream, where service is zero, or Call, by what the agent has said already; known is false
// where that is nothing, or too old.
func (a *Agent) Admit(ctx context.Context, token string, proxy identity.ProxyID, service identity.Name) (caller identity.Caller, known bool, err error) {
	caller = identity.Caller{Proxy: proxy, Service: service, Token: token}
	fresh := freshCall
	if service == (identity.Name{}) {
		all, err := a.registered()
		switch {
		case err != nil || proxy == "":
			return caller, false, nil //nolint:nilerr // Stream says why, or knows the node
		case all[proxy] == nil:
			return caller, false, status.Errorf(codes.NotFound, "there is no connect-proxy with the ID %.64q on this node of Consul", proxy)
		}
		service, fresh = all[proxy].Service, freshStream
	}
	// What is known for another second is known when it is asked for, so neither blocks.
	if !a.acl.knows(token, service.Service, fresh-time.Second) {
		return caller, false, nil
	}
	if caller.Service == (identity.Name{}) {
		caller, err = a.Stream(ctx, token, proxy)
	} else {
		caller, err = a.Call(ctx, token, proxy, service)
	}
	return caller, err == nil, err
}

// registered are the proxies of this node, those that cannot be served among them.
func (a *Agent) registered() (map[identity.ProxyID]*catalog.Proxy, error) {
	all, ok := a.proxies.Load()
	if !ok {
		return nil, status.Error(codes.Unavailable, "the proxies of this node are not known yet: the Consul agent has not answered")
	}
	return all, nil
}

// may is nil if token has service:write, by a verdict that is not older than fresh, and the call
// comes from where it may.
func (a *Agent) may(ctx context.Context, token string, service identity.Name, fresh time.Duration) error {
	if !sendable(token) {
		return status.Error(codes.Unauthenticated, "the token is none of Consul's")
	}
	if err := a.acl.check(ctx, token, service.Service, fresh); err != nil {
		return err
	}
	if a.config.RemoteWithoutACLs || !remote(ctx) {
		return nil
	}
	if token == "" || token == anonymous {
		return status.Error(codes.PermissionDenied, "the call comes from another machine and brings no token of its own: what Consul lets everybody do is no proof of who calls, and it would be given the service's private key (give the sidecar a token, or start serve with --xds-without-acls)")
	}
	if a.acl.aclsOff() {
		return status.Error(codes.PermissionDenied, "Consul's ACLs are off, so no token says who calls, and the call comes from another machine: it would be given any service's private key (turn ACLs on, or start serve with --xds-without-acls)")
	}
	return nil
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

// MayWrite is nil if token has service:write on service, by a verdict that is not older than 5 s. With proof that has to say who asks:
// what Consul lets everybody do is refused, and where ACLs are off, everything. As long as the agent does not answer, the last verdict
// holds. It blocks for 2 s at most; errors are as those of Stream.
func (a *Agent) MayWrite(ctx context.Context, token string, service identity.Name, proof bool) error {
	if !sendable(token) {
		return status.Error(codes.Unauthenticated, "the token is none of Consul's")
	}
	if proof && (token == "" || token == anonymous) {
		if a.acl.aclsOff() {
			return errNoACLs
		}
		return status.Errorf(codes.PermissionDenied, "what Consul lets everybody do is no proof of who asks: bring an ACL token with service:write on %q", service)
	}
	on := a.acl.aclsOn()
	if err := a.acl.check(ctx, token, service.Service, freshStream); err != nil || !proof {
		return err
	}
	switch {
	case a.acl.aclsOff():
		return errNoACLs
	case !on: // what let it pass may be that there were none
		return a.acl.check(ctx, token, service.Service, freshStream)
	}
	return nil
}

// errNoACLs is for whom nothing but a token would say who asks.
var errNoACLs = status.Error(codes.PermissionDenied, "Consul's ACLs are off, so no token says who asks: name the processes that may have it in the Meta of the service (sallyport_selectors), and ask by http.sock, without a token; --api-without-acls gives it to all who reach --api-address")

// ACLsOff reports whether the agent said last, when it was asked what a token may, that it has no ACLs.
func (a *Agent) ACLsOff() bool { return a.acl.aclsOff() }

// TokenName tells tokens apart without saying them.
func TokenName(token string) string {
	sum := sha256.Sum256([]byte(token))
	return "token " + hex.EncodeToString(sum[:6])
}

// sendable reports whether a token can be sent to the agent in a header.
func sendable(token string) bool {
	return !strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' })
}
