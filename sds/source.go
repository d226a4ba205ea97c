package sds

import (
	"context"

	"github.com/sallyport/sallyport/identity"
)

// Source is where certificates come from.
type Source interface {
	// WatchSVID calls f with the leaf of id now and after each rotation, until ctx ends or the
	// caller loses the right to it. What f is given is never shared between callers with different
	// tokens. It returns nil when ctx ended.
	WatchSVID(ctx context.Context, c identity.Caller, id identity.Service, f func(*SVID)) error
	// WatchRoots calls f with the roots of the mesh now and after each change, until ctx ends; then
	// it returns nil.
	WatchRoots(ctx context.Context, f func(*Roots)) error
}
