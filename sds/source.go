package sds

import (
	"context"

	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Source is where certificates come from.
type Source interface {
	// WatchSVID calls f with the leaf of id now and after each rotation, until ctx ends or the caller loses the right to
	// it. What f is given is never shared between callers with different tokens. It returns nil when ctx ended.
	WatchSVID(ctx context.Context, c identity.Caller, id identity.Service, f func(*x509svid.SVID)) error
	// WatchBundles calls f with the roots of all trust domains now and after each change, until ctx ends; then it returns nil.
	WatchBundles(ctx context.Context, f func(*x509bundle.Set)) error
}
