package xds

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// recheck authorizes the caller of a stream again, every Config.Recheck and with each new
// subscription, and ends the stream when that is denied. Other errors of the authorizer, such as an
// outage, change nothing. It returns when ctx ends.
func (s *Server) recheck(ctx context.Context, n *session, subscribed <-chan struct{}) {
	tick := time.NewTicker(s.recheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-subscribed:
		}
		caller, err := s.authorizer(ctx, n.caller.Proxy)
		switch {
		case err == nil && caller == n.caller:
			continue
		case err == nil:
			err = status.Error(codes.PermissionDenied, "the token is another proxy's now")
		default:
			switch status.Code(err) {
			case codes.Unauthenticated, codes.PermissionDenied, codes.NotFound:
			default:
				continue
			}
		}
		s.metrics.streamsRejected.WithLabelValues(rejectedDenied).Inc()
		s.log.Warn("caller no longer authorized, ending its stream", "proxy", n.caller.Proxy, "err", err)
		s.rejected(n.caller.Proxy, err)
		n.end(err)
		return
	}
}
