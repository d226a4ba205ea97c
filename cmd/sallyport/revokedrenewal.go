package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/backoff"
)

// renewalWait is how long the command that revoked a certificate has for giving its holder another one. The list may have been changed
// without it.
const renewalWait = 5 * time.Second

// renewRevoked gives those another leaf who go on using one that is revoked, until ctx ends; then it returns nil.
func (p *controlPlane) renewRevoked(ctx context.Context) error {
	var last *intention.Revoked
	for {
		changed := p.store.Views.Changed()
		if v, ok := p.store.Views.Load(); ok && !v.Revoked().Equal(last) {
			last = v.Revoked()
			if !backoff.Sleep(ctx, renewalWait) {
				return nil
			}
			p.renewUsed(last)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// renewUsed has the leafs in use that are on the list issued anew, but those of identities that are.
func (p *controlPlane) renewUsed(list *intention.Revoked) {
	if !p.authority.rotates {
		return
	}
	services := map[string]bool{}
	for _, u := range p.secrets.InUse() {
		sum := sha256.Sum256(u.Certificate.Raw)
		if list.Certificate(u.Certificate.SerialNumber.Text(16), hex.EncodeToString(sum[:])) == nil {
			continue
		}
		if id, err := identity.ParseURI(u.Certificate.URIs[0].String()); err == nil && list.Identity(id) == nil {
			services[id.Name.String()] = true
		}
	}
	for _, service := range slices.Sorted(maps.Keys(services)) {
		if _, err := p.rotateLeaf(service); err != nil {
			p.log.Error("leaf of a revoked certificate's holder not renewed", "service", service, "err", err)
		}
	}
}
