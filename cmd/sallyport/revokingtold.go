package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/issuance"
)

// tell says what a change of what is revoked does, and has those who used a revoked certificate get another one.
func (p *controlPlane) tell(out *admin.RevocationResponse, what []intention.Revocation, undone bool) {
	v, ok := p.store.Views.Load()
	if !ok {
		out.Notes = append(out.Notes, "there is no catalog yet, so nobody is let in anyway")
		return
	}
	list := intention.Revoke(what)
	speaksFirst := ""
	for pr := range v.Proxies() {
		w := v.Proxy(pr.ID)
		if w == nil || !w.Policy.Concerned(list) {
			continue
		}
		in := w.Proxy.Inbound
		at := admin.RevokedAt{Service: pr.Service.String(), Enforcement: in.Enforcement.String(), Live: in.Revocation.String()}
		if in.ServerFirst && in.Enforcement == catalog.RBAC {
			speaksFirst = at.Service
		}
		if i := slices.IndexFunc(out.Services, func(o admin.RevokedAt) bool {
			return o.Service == at.Service && o.Enforcement == at.Enforcement && o.Live == at.Live
		}); i >= 0 {
			out.Services[i].Sidecars++
		} else {
			at.Sidecars = 1
			out.Services = append(out.Services, at)
		}
	}
	if undone {
		for _, w := range what {
			if w.OfCertificate() && w.ID != "" && p.identityRevoked(w.ID) {
				out.Notes = append(out.Notes, "the identity "+w.ID+" is revoked still")
			}
		}
		return
	}
	for _, w := range what {
		p.tellOf(out, v, w, speaksFirst)
	}
}

// tellOf is tell of one that is revoked.
func (p *controlPlane) tellOf(out *admin.RevocationResponse, v *catalog.View, w intention.Revocation, speaksFirst string) {
	note := func(format string, args ...any) { out.Notes = append(out.Notes, fmt.Sprintf(format, args...)) }
	if !w.OfCertificate() {
		id, err := identity.ParseURI(w.ID)
		if err == nil && id.TrustDomain == v.Mesh().TrustDomain && id.Datacenter == v.Mesh().Datacenter && v.Service(id.Name) == nil {
			note("no service %q is registered%s", id.Name.String(), nearestService(v, id.Service))
		}
		return
	}
	if speaksFirst != "" {
		note("%s speaks first: who holds the certificate hears its first words, as sidecars look at certificates after the handshake: revoke the identity there", speaksFirst)
	}
	if w.SHA256 == "" {
		note("this control plane did not issue it, and of its serial number alone sidecars cannot refuse it by their rules: it is refused at ext_authz and authorize alone, and no live connection ends: give its --sha256 or the --certificate too")
	}
	if w.ID != "" && p.identityRevoked(w.ID) {
		note("the identity %s is revoked, too", w.ID)
		return
	}
	p.renew(out, w)
}

// identityRevoked reports whether an identity is revoked, whatever its certificates are.
func (p *controlPlane) identityRevoked(id string) bool {
	return slices.ContainsFunc(p.revoked.Revoked().All(), func(r *intention.Revocation) bool { return !r.OfCertificate() && r.ID == id })
}

// renewTime is how long the answer waits for new leafs, which are signed within milliseconds unless the CA is far away.
const renewTime = 3 * time.Second

// renew has those to whom this control plane gives a revoked certificate get another one.
func (p *controlPlane) renew(out *admin.RevocationResponse, w intention.Revocation) {
	for _, u := range p.secrets.InUse() {
		if sum := sha256.Sum256(u.Certificate.Raw); hex.EncodeToString(sum[:]) == w.SHA256 {
			for _, c := range u.Callers {
				out.UsedBy = append(out.UsedBy, issuance.Name(c))
			}
		}
	}
	id, err := identity.ParseURI(w.ID)
	if len(out.UsedBy) == 0 || err != nil {
		return
	}
	if !p.authority.rotates {
		out.Notes = append(out.Notes, "Consul's agent renews leafs, and has no call for doing so early: those who use it are refused until it does, or until the agent is started again, which makes new ones")
		return
	}
	type outcome struct {
		admin.RotateResponse
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := p.rotateLeaf(id.Name.String())
		if err != nil {
			p.log.Error("leaf of a revoked certificate's holder not renewed", "service", id.Name.String(), "err", err)
		}
		done <- outcome{r, err}
	}()
	timer := time.NewTimer(renewTime)
	defer timer.Stop()
	select {
	case o := <-done:
		if out.Rotated = o.Leafs; o.err != nil {
			out.Notes = append(out.Notes, "those who use it have no new one: "+o.err.Error())
		}
	case <-timer.C:
		out.Notes = append(out.Notes, "those who use it get a new one as soon as the CA has signed it: `sallyport leaf list "+id.Name.String()+"` shows it")
	}
}
