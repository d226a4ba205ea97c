package xds

import (
	"sync"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
)

// leafs are the leaf certificates that one session uses, fetched in the name of its caller. The zero value holds none.
type leafs struct {
	mu     sync.Mutex
	closed bool
	byID   map[identity.Service]*sds.Leaf
}

// watch returns the leaf of id, asking for it if that was not done before; nil after close.
func (l *leafs) watch(c *sds.Credentials, caller identity.Caller, id identity.Service, wake func()) *sds.Leaf {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	if leaf := l.byID[id]; leaf != nil {
		return leaf
	}
	if l.byID == nil {
		l.byID = map[identity.Service]*sds.Leaf{}
	}
	leaf := c.Watch(caller, id, wake)
	l.byID[id] = leaf
	return leaf
}

// keep ends the use of all leafs but those in use.
func (l *leafs) keep(use map[identity.Service]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, leaf := range l.byID {
		if !use[id] {
			leaf.Close()
			delete(l.byID, id)
		}
	}
}

// expires is when the first of them ends; zero if there is none.
func (l *leafs) expires() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var first time.Time
	for _, leaf := range l.byID {
		svid := leaf.SVID()
		if svid == nil || len(svid.Certificates) == 0 {
			continue
		}
		if end := svid.Certificates[0].NotAfter; first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}

func (l *leafs) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, leaf := range l.byID {
		leaf.Close()
	}
	l.byID = nil
}
