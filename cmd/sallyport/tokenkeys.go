package main

import (
	"context"
	"maps"
	"net/netip"
	"path/filepath"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	tokenkeys "github.com/sallyport/sallyport/jwks/keys"
)

// openKeys makes what asks for the keys that verify tokens.
func (p *controlPlane) openKeys() (err error) {
	reach := func(netip.Addr) error { return nil }
	if !p.cfg.JWKSFromThisMachine {
		reach = tokenkeys.OtherMachines
	}
	p.tokenSigners, err = tokenkeys.Open(tokenkeys.Config{Data: filepath.Join(p.cfg.Data, "jwks"), Reach: reach, Logger: p.log, Registerer: p.metrics})
	if err != nil {
		return err
	}
	p.runs = append(p.runs, p.tokenSigners.Run, p.followKeys)
	return nil
}

// followKeys has the catalog follow the keys.
func (p *controlPlane) followKeys(ctx context.Context) error {
	all := p.tokenSigners.Keys()
	for {
		changed := all.Changed()
		known, _ := all.Load()
		p.store.Keys(known)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// withKeys is publish for contents whose token providers have their keys elsewhere. What is kept of those is there with the first contents that
// name them, so that a restart takes the keys from no Envoy.
func (p *controlPlane) withKeys(publish func(catalog.Contents)) func(catalog.Contents) {
	var given map[catalog.KeySource]string
	return func(c catalog.Contents) {
		p.tokenSigners.Want(catalog.KeySources(c.TokenProviders))
		if known, _ := p.tokenSigners.Keys().Load(); !maps.Equal(known, given) {
			given = known
			p.store.Keys(known)
		}
		publish(c)
	}
}

// tokenKeys are the sources of keys, for the status.
func (p *controlPlane) tokenKeys() (out []admin.TokenKeys) {
	for _, s := range p.tokenSigners.Status() {
		out = append(out, admin.TokenKeys{Source: s.Source, Keys: len(s.Keys), Confirmed: s.Confirmed, Problem: s.Problem})
	}
	return out
}
