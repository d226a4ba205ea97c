package ca

import (
	"crypto/x509"
	"slices"
	"sync"

	"github.com/sallyport/sallyport/internal/latest"
)

// fakeGate says what it is told to.
type fakeGate struct {
	mu               sync.Mutex
	untold, outdated []Holder
	changed          latest.Value[struct{}]
}

func (g *fakeGate) set(untold, outdated []Holder) {
	g.mu.Lock()
	g.untold, g.outdated = untold, outdated
	g.mu.Unlock()
	g.changed.Set(struct{}{})
}

func (g *fakeGate) Untold([]*x509.Certificate) []Holder {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.untold)
}

func (g *fakeGate) Outdated(*x509.Certificate) []Holder {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.outdated)
}

func (g *fakeGate) Changed() <-chan struct{} { return g.changed.Changed() }
