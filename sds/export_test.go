package sds

import (
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
)

// Remembered is how many validation contexts b holds a place for.
func Remembered(b *Bundles) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.made)
}

// NewBundles are bundles that no Credentials have.
func NewBundles(set *x509bundle.Set) (*Bundles, error) { return newBundles(set, time.Now()) }

// Verify looks for a way from a leaf to a root.
func (b *Bundles) Verify(chain []*x509.Certificate, now time.Time) error {
	return b.verify(chain[0], chain[1:], now)
}

// Anchors is how many intermediates b remembers.
func (b *Bundles) Anchors() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.anchors)
}
