package sds

import (
	"context"
	"log/slog"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// Caller is a proxy that has proved who it is, and the token that proved it. It is comparable. A token never reaches a log:
// printing a Caller prints its proxy.
type Caller struct {
	Proxy catalog.ProxyID
	// Token is what a leaf is fetched with where the source checks it (Consul's ACL token). Empty for sources that do not.
	Token string
}

// String is the proxy's ID.
func (c Caller) String() string { return string(c.Proxy) }

// GoString is String, so that %#v prints no token.
func (c Caller) GoString() string { return string(c.Proxy) }

// LogValue is String.
func (c Caller) LogValue() slog.Value { return slog.StringValue(string(c.Proxy)) }

// MarshalText is String, so that JSON prints no token.
func (c Caller) MarshalText() ([]byte, error) { return []byte(c.Proxy), nil }

// Source is where certificates come from.
type Source interface {
	// WatchSVID calls f with the leaf of id now and after each rotation, until ctx ends or the caller loses the right to
	// it. What f is given is never shared between callers with different tokens. It returns nil when ctx ended.
	WatchSVID(ctx context.Context, c Caller, id identity.Service, f func(*SVID)) error
	// WatchRoots calls f with the roots of the mesh now and after each change, until ctx ends; then it returns nil.
	WatchRoots(ctx context.Context, f func(*Roots)) error
}
