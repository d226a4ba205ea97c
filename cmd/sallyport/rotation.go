package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/internal/atomicfile"
)

// rotations replace the root of a control plane with a CA.
type rotations struct {
	ca *ca.CA // nil: others have it
	// providers are the names of those that may sign.
	providers []string
	// mu is held while somebody asks for something, and while connections are ended because of it.
	mu sync.Mutex
	// endFile is there while a rotation is running after which all connections are to end.
	endFile string
}

// caStatus describes who signs.
func (p *controlPlane) caStatus() admin.CA {
	out := admin.CA{Roots: []admin.CARoot{}}
	if td, ok := p.authority.trustDomain(); ok {
		out.TrustDomain = td.Name()
	}
	for _, u := range p.secrets.InUse() {
		if end := u.Certificate.NotAfter; out.LeafEnds.IsZero() || end.Before(out.LeafEnds) {
			out.LeafEnds = end
		}
	}
	if p.rotations.ca == nil {
		p.followed(&out)
		return out
	}
	s := p.rotations.ca.Status()
	out.Provider, out.IntermediateEnds, out.IntermediateRenewal, out.Problem = s.Provider, s.IntermediateEnds, s.IntermediateRenewal, s.Problem
	for _, r := range s.Roots {
		out.Roots = append(out.Roots, admin.CARoot(r))
	}
	if r := s.Rotation; r != nil {
		out.Rotation = &admin.Rotation{
			Phase: string(r.Phase), From: r.From, To: r.To, Started: r.Started, Since: r.Since, CrossSigned: r.CrossSigned,
			Waiting: waiting(r.Waiting), NotBefore: r.NotBefore, Overridden: r.Overridden, EndsConnections: p.rotations.ends(),
		}
	}
	return out
}

func waiting(all []ca.Holder) (out []admin.Holder) {
	for _, h := range all {
		out = append(out, admin.Holder(h))
	}
	return out
}

// followed describes the roots of Consul's servers, and who has not followed them.
func (p *controlPlane) followed(out *admin.CA) {
	out.Provider, out.Followed = "consul", true
	roots, ok := p.secrets.Roots()
	if !ok {
		out.Problem = "Consul's agent has not told the roots of the mesh"
		return
	}
	active, known := roots.Active()
	all := make([]*x509.Certificate, 0, len(roots.List()))
	for _, r := range roots.List() {
		all = append(all, r.Certificate)
		state := "old"
		if known && r.Certificate.Equal(active.Certificate) {
			state = "active"
		}
		sum := sha256.Sum256(r.Certificate.Raw)
		out.Roots = append(out.Roots, admin.CARoot{
			SHA256: hex.EncodeToString(sum[:]), Provider: "consul", State: state, NotBefore: r.Certificate.NotBefore, NotAfter: r.Certificate.NotAfter,
		})
	}
	slices.SortStableFunc(out.Roots, func(a, b admin.CARoot) int {
		return cmp.Or(cmp.Compare(a.State, b.State), b.NotBefore.Compare(a.NotBefore)) // "active" is before "old"
	})
	if len(all) < 2 || !known {
		return
	}
	// Consul signs under a new root as soon as it has one, so both are waited for.
	untold, outdated := p.accepted.Untold(all), p.accepted.Outdated(active.Certificate)
	r := &admin.Rotation{Phase: string(ca.Activating), From: "consul", To: "consul", Waiting: waiting(untold)}
	for _, h := range waiting(outdated) {
		if !slices.ContainsFunc(untold, func(o ca.Holder) bool { return o.Name == h.Name }) {
			r.Waiting = append(r.Waiting, h)
		}
	}
	slices.SortFunc(r.Waiting, func(a, b admin.Holder) int { return cmp.Compare(a.Name, b.Name) })
	out.Rotation = r
}

// rotateCA replaces the root, or has the rotation that is running wait for less, or takes it back.
func (p *controlPlane) rotateCA(r admin.RotateCARequest) (out admin.CA, err error) {
	authority := p.rotations.ca
	if authority == nil {
		return out, errors.New("Consul's servers have the CA: rotate its root with `consul connect ca set-config`; `sallyport ca status` then tells who has not accepted it")
	}
	if r.To != "" && !slices.Contains(p.rotations.providers, r.To) {
		text := ": there are " + strings.Join(p.rotations.providers, ", ") + "; configure another with ca_provider and ca_config, or ca_providers, and start again (docs/certificates.md)"
		if near := definition.Nearest(r.To, p.rotations.providers); near != "" {
			text = fmt.Sprintf(": did you mean %q?", near)
		}
		return out, fmt.Errorf("--to %s: %w among the providers%s", r.To, admin.ErrUnknown, text)
	}
	if r.Dangerous && len(r.Override) == 0 && !r.Cancel {
		return out, errors.New("--dangerous is about --override PROXY, which is missing: nothing was begun or changed")
	}
	names, err := p.holdersNamed(r.Override)
	if err != nil {
		return out, err
	}
	p.rotations.mu.Lock()
	defer p.rotations.mu.Unlock()
	running := authority.Status().Rotation
	if r.Cancel {
		if r.To != "" || len(names) > 0 || r.Dangerous || r.Distrust || r.EndConnections {
			return out, errors.New("--cancel takes the rotation back that is running, and goes with nothing else: cancel it first")
		}
		if err := authority.Cancel(); err != nil {
			return out, fmt.Errorf("--cancel: %w", err)
		}
		return p.caStatus(), forgetFile(p.rotations.endFile)
	}
	if running != nil && r.To != "" && r.To != running.To && running.From == running.To && running.To != ca.Builtin && running.Phase == ca.Preparing {
		running = nil // the CA leaves a provider whose new root nothing is signed under yet
	}
	if r.EndConnections && !p.rotations.ends() {
		if err := atomicfile.Replace(p.rotations.endFile, []byte("all connections end when the rotation that is running has ended\n")); err != nil {
			return out, fmt.Errorf("that connections are to end: %w", err)
		}
		defer func() {
			if err != nil { // what is refused has no effect
				err = errors.Join(err, forgetFile(p.rotations.endFile))
			}
		}()
	}
	if running == nil {
		err = authority.Rotate(ca.RotateOptions{To: r.To, Override: names, Dangerous: r.Dangerous, Distrust: r.Distrust, Reason: "asked for by `sallyport ca rotate`"})
	} else {
		err = p.amend(running, r, names)
	}
	return p.caStatus(), err
}

// amend has the rotation that is running wait for less.
func (p *controlPlane) amend(running *ca.RotationStatus, r admin.RotateCARequest, names []string) error {
	if r.To != "" && r.To != running.To || len(names) == 0 && !r.Distrust && !r.EndConnections {
		text := "for nobody any more"
		if n := len(running.Waiting); n > 0 {
			text = "for " + running.Waiting[0].Name
			if n > 1 {
				text += fmt.Sprintf(" and %d more", n-1)
			}
		}
		advice := "--distrust goes on without all that are not connected, for an old root whose key is known to others"
		if running.Phase == ca.Preparing {
			advice = "--override PROXY goes on without one, --cancel takes it back, and " + advice
		}
		return fmt.Errorf("%w, from %s to %s, since %s ago: it is in the phase %s and waits %s: `sallyport ca status` says why; %s",
			ca.ErrRotating, running.From, running.To, short(time.Since(running.Started)), running.Phase, text, advice)
	}
	if len(names) > 0 {
		if err := p.rotations.ca.Override(names, r.Dangerous); err != nil {
			return err
		}
	}
	if r.Distrust {
		return p.rotations.ca.Distrust()
	}
	return nil
}

// holdersNamed are the names of holders that names mean: proxies, or holders as `sallyport ca status` prints them.
func (p *controlPlane) holdersNamed(names []string) (out []string, err error) {
	known := p.accepted.Holders()
	for _, id := range p.proxies() {
		known = append(known, "proxy "+string(id))
	}
	for _, name := range names {
		switch {
		case slices.Contains(known, name):
		case slices.Contains(known, "proxy "+name):
			name = "proxy " + name
		default:
			var short []string
			for _, k := range known {
				short = append(short, strings.TrimPrefix(k, "proxy "))
			}
			text := ": `sallyport ca status` lists those that are waited for"
			if near := definition.Nearest(name, short); near != "" {
				text = fmt.Sprintf(": did you mean %q?", near)
			}
			return nil, fmt.Errorf("--override %s: %w: neither a proxy of the catalog nor somebody with a leaf%s", name, admin.ErrUnknown, text)
		}
		out = append(out, name)
	}
	return out, nil
}

// ends reports whether all connections end when the rotation that is running has ended.
func (r *rotations) ends() bool {
	_, err := os.Lstat(r.endFile)
	return !errors.Is(err, fs.ErrNotExist)
}

// openRotations makes the CA replace its roots when somebody asks, and change between the built-in root and others.
func (p *controlPlane) openRotations(authority *ca.CA, others []string) {
	p.rotations.ca, p.rotations.providers, p.rotations.endFile = authority, append([]string{ca.Builtin}, others...), filepath.Join(p.cfg.Data, "end-connections")
	p.runs = append(p.runs, p.endConnections)
}

// endConnections ends all connections after rotations for which somebody asked for that, until ctx ends; then it returns nil.
func (p *controlPlane) endConnections(ctx context.Context) error {
	for {
		changed := p.rotations.ca.StatusChanged() // before it is read
		p.rotations.mu.Lock()
		if p.rotations.ends() && p.rotations.ca.Status().Rotation == nil {
			p.xds.EndConnections()
			if err := forgetFile(p.rotations.endFile); err != nil {
				p.log.Error("connections end once more at the next start", "err", err)
			}
		}
		p.rotations.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func forgetFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
