package xds

import (
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// checkProof returns an error, a gRPC status, if the token of a new stream is not one of the proxy as
// the catalog has it now. A proxy that is not in the catalog is left to the publisher.
func (s *Server) checkProof(caller identity.Caller) error {
	view, ok := s.views.Load()
	if !ok || view.Proxy(caller.Proxy) == nil {
		return nil
	}
	if err := view.Proxy(caller.Proxy).Proxy.Admits(caller.Proof); err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return nil
}

// admits reports whether the session's token is still one of the proxy as the catalog has it now. If
// it is not, nothing of the proxy is sent any more, and the stream ends.
func (p *publisher) admits(proxy *catalog.Proxy, n *session) bool {
	err := proxy.Admits(n.caller.Proof)
	if err == nil || n.published.dismissed {
		return err == nil
	}
	n.published.dismissed = true
	err = status.Error(codes.PermissionDenied, err.Error())
	p.server.metrics.streamsRejected.WithLabelValues(rejectedDenied).Inc()
	p.server.log.Warn("token of what the proxy was before, ending its stream", "proxy", proxy.ID, "token_id", n.caller.Proof.ID, "err", err)
	p.server.rejected(proxy.ID, err)
	n.end(err)
	return false
}

// TokenStatus is what is known of the token that a stream was opened with.
type TokenStatus struct {
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
	// Unbound says that a release before made it, which bound it to neither the proxy's service nor
	// its user.
	Unbound bool `json:"unbound,omitempty"`
}

// token is the status of the stream's token; nil if it is none of the control plane's own.
func (s *session) token() *TokenStatus {
	f := s.caller.Proof
	if f.Expires == 0 {
		return nil
	}
	return &TokenStatus{ID: f.ID, Expires: time.Unix(f.Expires, 0).UTC(), Unbound: !f.Bound()}
}
