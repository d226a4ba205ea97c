package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// knowTime is how long is waited for what Consul's servers say of a destination, and knowPoll how often is looked.
	knowTime = 3 * time.Second
	knowPoll = 10 * time.Millisecond
)

// knowing returns the newest View, in which it is known what is said of a destination: beside Consul it is asked for if this node has not
// that service. The errors are gRPC statuses; nobody is to be let in then.
func (p *controlPlane) knowing(ctx context.Context, caller string, destination identity.Name) (*catalog.View, error) {
	v, _ := p.store.Views.Load()
	if p.agent == nil || v == nil || v.Mesh() == nil {
		return v, nil // all is known, or nothing
	}
	known := v.Policy(destination) != nil
	if !known && (identity.Service{TrustDomain: v.Mesh().TrustDomain, Datacenter: v.Mesh().Datacenter, Name: destination}).Check() != nil {
		return v, nil // no service can be called so
	}
	err := p.agent.Know(caller, destination, known)
	if known {
		return v, nil
	}
	end := time.NewTimer(knowTime)
	defer end.Stop()
	for ; err == nil; err = p.agent.Know(caller, destination, false) {
		select {
		case <-time.After(knowPoll): // that it cannot be read makes no View
		case <-end.C:
			return nil, status.Errorf(codes.Unavailable, "failed getting intention match: what is said of %q is not read from the Consul agent yet: ask again", destination.String())
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		if v, _ = p.store.Views.Load(); v.Policy(destination) != nil {
			return v, nil
		}
	}
	return nil, err
}

// apiKnowing is knowing for the HTTP API.
func (p *controlPlane) apiKnowing(ctx context.Context, caller string, destination identity.Name) (*catalog.View, error) {
	v, err := p.knowing(ctx, caller, destination)
	switch s := status.Convert(err); s.Code() {
	case codes.OK:
		return v, nil
	case codes.ResourceExhausted:
		return nil, api.Refused(http.StatusTooManyRequests, s.Message())
	default:
		return nil, api.Refused(http.StatusInternalServerError, s.Message())
	}
}

// adminCheck answers `sallyport intention check`.
func (p *controlPlane) adminCheck(ctx context.Context, source, destination string, request admin.CheckRequest) (admin.CheckResponse, error) {
	v, _ := p.store.Views.Load()
	v, err := p.knowing(ctx, "the admin socket", serviceOf(v, destination))
	if s := status.Convert(err); s.Code() != codes.OK {
		return admin.CheckResponse{}, fmt.Errorf("%w: %s", admin.ErrNotYet, s.Message())
	}
	r, err := checkIntention(v, source, destination, request, p.cfg.Catalog)
	return asTaken(r, p.source.status().NotTaken), err
}
