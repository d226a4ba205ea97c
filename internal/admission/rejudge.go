package admission

import (
	"context"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// heldStream is a stream whose handler can be told to end, by its context. gRPC's own context goes on
// meanwhile: it would send a status of its own as soon as a receive fails, in the place of the
// handler's.
type heldStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // it is what Context returns
}

// Context ends with the reason, as its cause, when the stream's token is not good any more.
func (s *heldStream) Context() context.Context { return s.ctx }

// hold keeps a stream among those that Rejudge judges, until release is called.
func (g *Gate) hold(a *admitted, s grpc.ServerStream) (held grpc.ServerStream, release func()) {
	ctx, cancel := context.WithCancelCause(s.Context())
	a.cancel = cancel
	g.mu.Lock()
	g.held[a] = true
	g.mu.Unlock()
	if g.rejudged.Load() != a.rejudged { // between its judgement and now
		g.rejudge(a)
	}
	return &heldStream{s, ctx}, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.held, a)
		cancel(nil)
	}
}

// Rejudge judges the tokens of all open streams again, by what is known without asking anybody, and
// ends those that are not good any more. It returns how many it has ended. New streams are judged by
// what was known when Rejudge was called, or later.
func (g *Gate) Rejudge() (ended int) {
	g.rejudged.Add(1)
	g.mu.Lock()
	all := slices.Collect(maps.Keys(g.held))
	g.mu.Unlock()
	for _, a := range all {
		if g.rejudge(a) {
			ended++
		}
	}
	return ended
}

func (g *Gate) rejudge(a *admitted) (ended bool) {
	err := a.again()
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied:
		g.config.Refused(Refusal{Peer: a.conn.Peer, Proxy: a.claimed(), Method: a.name, Err: err})
		a.cancel(err)
		return true
	default:
		return false
	}
}

// claimed is the proxy that the stream is of, or calls itself.
func (a *admitted) claimed() identity.ProxyID {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.caller.Proxy
}
