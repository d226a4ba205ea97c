package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/xds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// authority is who issues leafs: a CA of the control plane's own, or the one of Consul's servers.
type authority struct {
	sds.Source
	// trustDomain is the mesh's; ok is false as long as it is not known.
	trustDomain func() (td spiffeid.TrustDomain, ok bool)
	// rotates says that it issues a leaf early when it is asked to.
	rotates bool
	// own is Issuer.WatchOwn; nil: the control plane gets no leaf of its own.
	own func(ctx context.Context, name string, f func(*sds.SVID)) error
	// sign signs requests of applications that keep their key; nil: it signs none.
	sign api.Sign
}

func (p *controlPlane) openCA() error {
	td, err := configuredTrustDomain(p.cfg.TrustDomain)
	if err != nil {
		return err
	}
	settings, err := p.cfg.caSettings()
	if err != nil {
		return err
	}
	providers, err := p.openProviders(settings, td)
	if err != nil {
		return err
	}
	leafTTL := p.cfg.leafTTL()
	builtin, err := ca.Open(ca.Config{
		Dir: filepath.Join(p.cfg.Data, "ca"), Missing: hadCA(p.cfg.Data), TrustDomain: td, LeafTTL: leafTTL, Gate: p.accepted, Keys: p.keys, FederationHint: p.cfg.federationHint(), Logger: p.log, Registerer: p.metrics,
		IntermediateTTL: settings.intermediateTTL, RootTTL: settings.rootTTL, Upstreams: providers.upstreams, Provider: settings.provider,
	})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, builtin.Close)
	p.openRotations(builtin, slices.Sorted(maps.Keys(providers.upstreams)))
	providers.follow(p, builtin)
	p.builtin = builtin
	td = builtin.TrustDomain()
	issuer, err := ca.NewIssuer(ca.IssuerConfig{Provider: builtin, TrustDomain: td, TTL: leafTTL, Registerer: p.metrics})
	if err != nil {
		return err
	}
	sign := func(ctx context.Context, c identity.Caller, id identity.Service, request []byte) ([]*x509.Certificate, error) {
		chain, err := issuer.SignRequest(ctx, request, id)
		if errors.Is(err, ca.ErrRequest) {
			return nil, api.Refused(http.StatusBadRequest, err.Error())
		}
		if err == nil {
			p.issued.Add(c, chain[0])
		}
		return chain, err
	}
	p.authority = authority{Source: issuer, rotates: true, sign: sign, own: issuer.WatchOwn, trustDomain: func() (spiffeid.TrustDomain, bool) { return td, true }}
	p.runs = append(p.runs, builtin.Run, issuer.Run)
	p.checks = append(p.checks, func() error {
		if err := builtin.Health(); err != nil {
			return fmt.Errorf("the CA's state cannot be written: %w", err)
		}
		return nil
	})
	return nil
}

// hadCA is why the data directory has to have a CA: it has what only a control plane with one leaves
// there. Nil: it has none of that. A new CA in the place of a lost one would end all trust between
// sidecars that run and those that come.
func hadCA(data string) error {
	has := func(name string) bool {
		_, err := os.Lstat(filepath.Join(data, name))
		return !errors.Is(err, fs.ErrNotExist)
	}
	names := []string{"token.key", "revoked-tokens.json", "sidecar-ports.json"}
	// Beside Consul there are generations, too, and no CA.
	if !has("last-known-good.json") && !has("last-known-good.json.bad") {
		names = append(names, "generations-2.json", "generations.json")
	}
	for _, name := range names {
		if has(name) {
			return fmt.Errorf("there was a CA, for %s is there: restore it from a backup, or begin a new mesh, which every sidecar has to join anew, with an empty --data", filepath.Join(data, name))
		}
	}
	return nil
}

func (p *controlPlane) rotateLeaf(service string) (out admin.RotateResponse, err error) {
	if !p.authority.rotates {
		return out, errors.New("consul's agent renews leafs, and has no call for doing so early: rotate the root with `consul connect ca set-config`")
	}
	v, _ := p.store.Views.Load()
	name := serviceOf(v, service)
	out.Service = name.String()
	users := func() (all []xds.ProxyStatus) {
		if v == nil {
			return nil
		}
		for w := range v.Of(name) {
			if s, ok := p.xds.Proxy(w.Proxy.ID); ok {
				all = append(all, s)
			}
		}
		return all
	}
	before := users()
	if err = p.secrets.Rotate(name); err == nil {
		out.Leafs = rotated(before, users())
		return out, nil
	}
	known := false
	for _, pr := range p.xds.Status() {
		if pr.Service == name.String() {
			if pr.Connected {
				return out, err
			}
			known = true
		}
	}
	if !known && v != nil && v.Service(name) != nil {
		return out, fmt.Errorf("%w: neither a sidecar nor an application has asked for one: `sallyport leaf list` lists those that are there", err)
	}
	if !known {
		return out, fmt.Errorf("a proxy of the service %q: %w in the catalog%s", service, admin.ErrUnknown, nearest(slices.Values(p.xds.Status()), service, namedStatus))
	}
	return out, fmt.Errorf("%w: none of its sidecars is connected, and only those that are have leafs: `sallyport status` lists them", err)
}

// rotated are the leafs that proxies have after a rotation.
func rotated(before, after []xds.ProxyStatus) []admin.RotatedLeaf {
	type user struct{ proxy, id string }
	old := map[user]string{}
	each := func(all []xds.ProxyStatus, f func(user, xds.LeafStatus)) {
		for _, p := range all {
			for _, t := range p.Streams {
				for _, l := range t.Leafs {
					f(user{string(p.ID), l.ID}, l)
				}
			}
		}
	}
	each(before, func(u user, l xds.LeafStatus) { old[u] = l.Serial })
	out := []admin.RotatedLeaf{}
	each(after, func(u user, l xds.LeafStatus) {
		n := admin.RotatedLeaf{Proxy: u.proxy, ID: u.id, OldSerial: old[u], Serial: l.Serial, NotBefore: l.NotBefore, NotAfter: l.NotAfter}
		if !slices.Contains(out, n) { // two streams are an Envoy that is being replaced
			out = append(out, n)
		}
	})
	return out
}
