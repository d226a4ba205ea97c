package sds

import (
	"log/slog"
	"sync"
)

// Leaf is somebody's use of a leaf certificate. It is made by Credentials.Watch and ends with Close.
type Leaf struct {
	credentials *Credentials
	watch       *watch
	key         watchKey
	wake        func()
	closed      sync.Once
}

// SVID returns the newest leaf that was verified; nil until there is one. It does not block, and
// returns the last one after Close.
func (l *Leaf) SVID() *SVID { return l.watch.served.Load() }

// Close ends this use; the last one ends the watch. It does not wait for it and may be called more
// than once.
func (l *Leaf) Close() { l.closed.Do(func() { l.credentials.release(l) }) }

// String is the identity whose leaf it is; neither key nor token is printed.
func (l *Leaf) String() string { return l.key.id.String() }

// GoString is String.
func (l *Leaf) GoString() string { return l.String() }

// LogValue is String.
func (l *Leaf) LogValue() slog.Value { return slog.StringValue(l.String()) }
