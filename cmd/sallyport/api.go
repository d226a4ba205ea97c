package main

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sallyport/sallyport/admin"
)

func (p *controlPlane) api() admin.API {
	return admin.API{
		Status: p.describe,
		Change: p.xds.Change,
		Proxy: func(id string) (admin.Proxy, error) {
			v, _ := p.store.Views.Load()
			return describeProxy(v, id, p.xds.Status())
		},
		Instance: func(id string) (admin.InstanceDetail, error) {
			v, _ := p.store.Views.Load()
			return instanceDetail(v, id)
		},
		Intentions: func() []admin.Rule {
			v, _ := p.store.Views.Load()
			return listIntentions(v)
		},
		Check:  p.adminCheck,
		Chain:  p.adminChain,
		Rotate: p.rotateLeaf,
		Leafs:  p.leafs,
		CA:     p.caStatus,
		Token:  p.token,
		Revoke: p.revoke,

		ApplicationToken: p.applicationToken,
		RotateCA:         p.rotateCA,
		Revoked:          p.listRevoked,
		ChangeRevoked:    p.changeRevoked,
		Judge:            p.judge,
		Reload:           p.reload,
		TrustDomain:      p.trustDomain,
		ImportBundle:     p.importBundle,
		BundleEndpoint:   p.bundleEndpoint,
		Application: func(peer admin.Peer, a admin.Application) error {
			v, _ := p.store.Views.Load()
			return p.applications.note(v, peer, a, p.log)
		},
		Monitoring: p.monitoring(),
	}
}

// monitoring is what the metrics address and the admin socket both serve.
func (p *controlPlane) monitoring() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.home)
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		reasons := p.notReady()
		if len(reasons) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		} else {
			reasons = []string{"ready"}
			for _, n := range p.source.status().NotTaken {
				reasons = append(reasons, n.String())
			}
		}
		for _, r := range reasons {
			fmt.Fprintln(w, r)
		}
	})
	return mux
}

// noCatalog is why nobody can be served before there is one.
const noCatalog = "no valid catalog was read yet"

// notReady says why nobody can be served yet, or not for long.
func (p *controlPlane) notReady() (reasons []string) {
	for _, check := range p.checks {
		if err := check(); err != nil {
			reasons = append(reasons, err.Error())
		}
	}
	if err := checkDisk(p.cfg.Data); err != nil {
		reasons = append(reasons, err.Error())
	}
	if _, ok := p.store.Views.Load(); !ok {
		reasons = append(reasons, noCatalog)
		reasons = append(reasons, p.source.status().Problems...)
	}
	if _, ok := p.secrets.Roots(); !ok {
		reasons = append(reasons, "the trust bundle is not there yet")
	}
	return reasons
}

func (p *controlPlane) describe() admin.Status {
	s := admin.Status{
		Version: versionText(), PID: os.Getpid(), Started: p.started, Catalog: p.source.status(),
		NotReady: p.notReady(), Unrecorded: p.xds.Unrecorded(), Refusals: p.xds.Refusals(), Proxies: p.xds.Status(),
	}
	validate := advice{catalog: p.cfg.advice().catalog} // who asks knows where it runs, and not what it reads
	for _, texts := range []*[]string{&s.Catalog.Problems, &s.Catalog.Warnings} {
		*texts = slices.Clone(*texts)
		for i, text := range *texts {
			(*texts)[i] = validate.text(text)
		}
	}
	for _, r := range p.claims.Refusals() {
		s.Catalog.Warnings = append(s.Catalog.Warnings, r.String())
		if !r.Taken {
			s.Catalog.Refused = append(s.Catalog.Refused, r.String())
		}
	}
	s.Applications = p.applications.silent(s.Proxies)
	s.Callers = callersOf(p.http.Users(), p.workload.Users())
	s.DataDir = p.cfg.Data
	s.TrustDomains, s.BadTrustDomains = p.otherTrustDomains()
	s.TokenKeys = p.tokenKeys()
	now := time.Now()
	if err := checkDisk(p.cfg.Data); err != nil {
		s.Disk = err.Error()
	}
	if r, ok := p.secrets.Roots(); ok {
		s.Roots = describeRoots(r)
	}
	own, _ := p.secrets.Roots()
	others, _ := p.domains.Sets().Load()
	s.Catalog.Warnings = append(s.Catalog.Warnings, sharedKeys(own, others)...)
	s.Rotation = p.caStatus().Rotation
	for _, r := range p.revoked.Revoked().All() {
		if r.OfCertificate() {
			s.RevokedCertificates++
		} else {
			s.RevokedIdentities++
		}
	}
	s.Clock = clockFault(p.cfg.Data, p.source.ahead(), s.Roots, now)
	if td, ok := p.authority.trustDomain(); ok {
		s.TrustDomain = td.Name()
	}
	if v, ok := p.store.Views.Load(); ok {
		locateRefusals(v, s.Proxies)
		s.Datacenter, s.AcceptsTLS12 = v.Mesh().Datacenter, v.Mesh().Incoming.Allow12
		for range v.Services() {
			s.Catalog.Services++
		}
		s.Catalog.Intentions = v.IntentionCount()
		s.Instances = instancesOf(v)
		s.Catalog.Warnings = append(s.Catalog.Warnings, unknownNames(v)...)
		s.Catalog.Warnings = append(s.Catalog.Warnings, unproved(v, s.TrustDomains)...)
		s.Change, s.ChangeSeen = v.Change().Number, v.Change().Seen
	}
	return s
}
