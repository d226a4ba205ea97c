package token

import (
	"context"
	"errors"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sallyport/sallyport/sds"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// scheme is what stands before the token in the authorization header. It is compared without case (RFC 9110, 11.1).
const scheme = "bearer "

// Authorizer knows the callers of gRPC calls by their tokens. The zero Authorizer refuses everybody.
type Authorizer struct{ Issuer *Issuer }

// Authorize returns the proxy whose token came with the call of ctx. If node says who it is, it must agree; node may be nil,
// as in calls of ext_authz. The Caller's Token is empty, for nothing behind this control plane asks for it. Errors are gRPC
// statuses with a sentence for whoever reads Envoy's log: Unauthenticated, or PermissionDenied for a node that is another proxy.
func (a Authorizer) Authorize(ctx context.Context, node *corev3.Node) (sds.Caller, error) {
	if a.Issuer == nil {
		return sds.Caller{}, status.Error(codes.Unauthenticated, "this control plane issues no tokens")
	}
	// gRPC joins nothing: each header is a value of its own.
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	switch len(values) {
	case 0:
		return sds.Caller{}, status.Error(codes.Unauthenticated, "the call came without a token: is this Envoy's bootstrap from `sallyport bootstrap` or `sallyport envoy`?")
	case 1:
	default:
		return sds.Caller{}, status.Error(codes.Unauthenticated, "the call came with several authorization headers; one is right")
	}
	v := values[0]
	if len(v) < len(scheme) || !strings.EqualFold(v[:len(scheme)], scheme) {
		return sds.Caller{}, status.Error(codes.Unauthenticated, `the authorization header does not say "Bearer <token>"`)
	}
	p, err := a.Issuer.verify(v[len(scheme):])
	switch {
	case errors.Is(err, errExpired):
		return sds.Caller{}, status.Error(codes.Unauthenticated, err.Error()+"; `sallyport envoy` renews it as long as it runs, `sallyport bootstrap` writes a new one")
	case err != nil:
		return sds.Caller{}, status.Error(codes.Unauthenticated, err.Error())
	}
	if id := node.GetId(); id != "" && id != string(p) {
		return sds.Caller{}, status.Errorf(codes.PermissionDenied, "the token is %q's, but the node calls itself %.64q", p, id)
	}
	return sds.Caller{Proxy: p}, nil
}
