package sds

import (
	"crypto/x509"
	"time"
)

// Verify looks for a way from a leaf to a root.
func (r *Roots) Verify(chain []*x509.Certificate, now time.Time) error {
	return r.verify(chain[0], chain[1:], now)
}

// Anchors is how many intermediates r remembers.
func (r *Roots) Anchors() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.anchors)
}
