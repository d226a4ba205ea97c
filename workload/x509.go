package workload

import (
	"context"
	"time"

	"github.com/sallyport/sallyport/bundle"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// FetchX509SVID sends all leafs of the process, at once and after each change of a leaf, of the
// trust bundle or of what the process is. The first one is the default: they are sorted by service.
func (s *Server) FetchX509SVID(_ *workloadpb.X509SVIDRequest, stream grpc.ServerStreamingServer[workloadpb.X509SVIDResponse]) error {
	c, err := connOf(stream.Context())
	if err != nil {
		return err
	}
	h := handing{server: s, conn: c}
	err = s.follow(stream.Context(), c, nil, func(a *answer) error {
		h.open().Sent(a.roots, a.leafs())
		return stream.Send(a.message())
	})
	h.close(stream.Context(), err)
	return err
}

// message is a as the Workload API sends it. Nobody changes what it shares with a.
func (a *answer) message() *workloadpb.X509SVIDResponse {
	out := &workloadpb.X509SVIDResponse{FederatedBundles: federated(a.foreign)}
	for _, o := range a.svids {
		out.Svids = append(out.Svids, &workloadpb.X509SVID{SpiffeId: o.uri, X509Svid: o.chain, X509SvidKey: o.key, Bundle: a.bundle})
	}
	return out
}

// federated are the bundles of other trust domains in DER, by their IDs.
func federated(s *bundle.Set) map[string][]byte {
	out := map[string][]byte{}
	for _, b := range s.All() {
		out[b.TrustDomain.IDString()] = bundleOf(b.Roots)
	}
	return out
}

// FetchX509Bundles sends the trust bundle and those of other trust domains, at once and after each change. It is public.
func (s *Server) FetchX509Bundles(_ *workloadpb.X509BundlesRequest, stream grpc.ServerStreamingServer[workloadpb.X509BundlesResponse]) error {
	return s.followRoots(stream.Context(), func(td string, der []byte, foreign *bundle.Set) error {
		bundles := federated(foreign)
		bundles[td] = der
		return stream.Send(&workloadpb.X509BundlesResponse{Bundles: bundles})
	})
}

// followRoots calls send with the trust bundle and those of other trust domains, now and after each change, until ctx ends or send
// fails. The error is a gRPC status.
func (s *Server) followRoots(ctx context.Context, send func(td string, der []byte, foreign *bundle.Set) error) error {
	c, err := connOf(ctx)
	if err != nil {
		return err
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		changed, foreign := s.credentials.RootsChanged(), s.sets.Changed() // before they are loaded, so that no change is missed
		v, err := s.view()
		if err != nil {
			return err
		}
		if roots, ok := s.credentials.Roots(); ok {
			late.Stop()
			own := v.Mesh().TrustDomain
			if err := send(own.IDString(), bundleOf(roots), s.foreign(own)); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-foreign:
		case <-late.C:
			s.metrics.denied(reasonNotReady)
			return errNoRoots
		case <-c.process.Ended():
			return errGone
		case <-s.closing:
			return errClosing
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}
