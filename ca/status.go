package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/sds"
)

// Status is what the CA does now. It does not block.
func (c *CA) Status() Status {
	a := c.authority
	v := a.shown.Load()
	rec, version, s := v.rec, v.version, v.intermediate
	var unknown error
	if a.mu.TryLock() { // a disk that hangs has it
		unknown = c.firstRoots(a.rec)
		a.unlock()
	}
	out := Status{Provider: rec.Provider}
	out.Problem, _ = c.problem.Load()
	if out.Problem == "" && unknown != nil { // since it was judged
		out.Problem = unknown.Error()
	}
	for _, root := range rec.certificates(all) {
		i := slices.IndexFunc(rec.Roots, func(r anchor) bool { return r.Certificate.Certificate == root })
		out.Roots = append(out.Roots, RootStatus{
			SHA256: fingerprint(root), Provider: rec.Roots[i].Provider, State: rec.Roots[i].State, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		})
	}
	if s != nil {
		out.IntermediateEnds, out.IntermediateRenewal = s.cert.NotAfter, s.half()
	}
	if r := rec.Rotation; r != nil {
		w := c.waiting(rec, version)
		out.Rotation = &RotationStatus{
			Phase: r.Phase, From: r.From, To: r.To, Started: r.Started, Since: r.Since, CrossSigned: r.CrossSigned,
			Waiting: w.holders, NotBefore: w.notBefore, Overridden: r.Overridden,
		}
	}
	return out
}

// StatusChanged returns a channel that is closed when Status may be another. Take it before Status.
func (c *CA) StatusChanged() <-chan struct{} { return c.changed.Changed() }

// waitFor makes w what Status says.
func (c *CA) waitFor(w wait) {
	w.version = c.looked
	if last, _ := c.wait.Load(); last.version == w.version && slices.Equal(last.holders, w.holders) && last.notBefore.Sub(w.notBefore).Abs() < time.Second {
		return
	}
	c.wait.Set(w)
	c.changed.Set(struct{}{})
}

// endsSoon is how long before its end a root that is not active leaves the bundle: by a push, as Envoys that have an expired one beside
// another of its name refuse what leads to either.
const endsSoon = 30 * time.Second

// lasts reports whether a root stays in the bundle though it is not active.
func lasts(root *x509.Certificate, now time.Time) bool { return root.NotAfter.Sub(now) > endsSoon }

// publish makes the roots that are trusted now those of Roots, if they are others. a.mu is held, or nobody else has a.
func (c *CA) publish() {
	now := c.cfg.now()
	rec, version := c.authority.rec, c.authority.version
	stepped := now.Round(0).Sub(c.publishedAt.Round(0)) - now.Sub(c.publishedAt) // the wall clock has
	if version == c.publishedVersion && now.Before(c.publishedUntil) && stepped.Abs() < time.Second {
		return
	}
	c.authority.show() // whom the roots wake signs under them
	c.changed.Set(struct{}{})
	c.publishedVersion, c.publishedAt, c.publishedUntil = version, now, now.Add(time.Hour)
	for _, r := range rec.Roots {
		if at := r.Certificate.NotAfter.Add(-endsSoon); r.State != active && at.After(now) && at.Before(c.publishedUntil) {
			c.publishedUntil = at
		}
	}
	// A root of the record was valid when it came there. If one is not now, the clock was set back, and those whose clocks are right go on.
	at := now
	for _, r := range rec.Roots {
		if r.Certificate.NotBefore.After(at) {
			at = r.Certificate.NotBefore
		}
	}
	bundle, _ := certpath.Bundle(rec.certificates(func(r anchor) bool {
		return r.State == active || lasts(r.Certificate.Certificate, at)
	}), true, at)
	list := make([]sds.Root, len(bundle))
	for i, cert := range bundle {
		list[i] = sds.Root{ID: fingerprint(cert), Certificate: cert}
	}
	next := sds.NewRoots(c.authority.trustDomain, rec.Active, list).Within(c.depth())
	last, ok := c.roots.Load()
	if len(list) == 0 || ok && last.PEM() == next.PEM() && sameActive(last, next) {
		return
	}
	c.roots.Set(next)
}

// depth is how many certificates a chain may have above its leaf. It does not change with a rotation: those who are not told of a new root
// are to follow the old root's signature of it, which is one more than an intermediate and a root. Only where there are providers, chains
// may be longer.
func (c *CA) depth() uint32 {
	if len(c.cfg.Upstreams) == 0 && c.authority.rec.Provider == Builtin {
		return 3
	}
	return certpath.MaxLength
}

func sameActive(a, b *sds.Roots) bool {
	x, _ := a.Active()
	y, _ := b.Active()
	return x.ID == y.ID
}

// alarmAgain is after how long the same is logged again.
const alarmAgain = time.Hour

// judge makes err, and what ends soon, what Status says is wrong, and logs it.
func (c *CA) judge(err error, now time.Time) {
	problems := []string{}
	if err != nil {
		problems = append(problems, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	a := c.authority
	a.mu.Lock()
	rec, s, failed, unknown := a.rec, a.intermediate, a.failed, c.firstRoots(a.rec)
	a.unlock()
	if unknown != nil {
		problems = append(problems, unknown.Error())
	}
	if failed != nil {
		problems = append(problems, failed.Error())
	}
	ends := func(what string, c *x509.Certificate, rest time.Duration, why string) {
		if c != nil && c.NotAfter.Sub(now) < rest {
			problems = append(problems, fmt.Sprintf("the %s ends at %s, and with it all leafs: %s", what, c.NotAfter.UTC().Format(time.RFC3339), why))
		}
	}
	if root := rec.root(rec.Active); root != nil {
		switch {
		case rec.Provider != Builtin:
			ends("root", root, c.rest(root), "replace it at "+rec.Provider)
		case rec.Rotation != nil && rec.Rotation.Phase == Preparing:
			ends("root", root, c.rest(root)/2, "its replacement waits: `sallyport ca status` says for whom")
		case rec.Rotation == nil:
			ends("root", root, c.rest(root)*9/10, "its replacement does not begin: see the log")
		}
	}
	if _, ok := c.cfg.Upstreams[rec.Provider]; !ok && rec.Provider != Builtin {
		problems = append(problems, c.cfg.notConfigured(rec.Provider).Error()+": configure it again, or rotate to another one before the intermediate ends")
	}
	if s != nil && rec.Provider != Builtin {
		ends("intermediate", s.cert, s.cert.NotAfter.Sub(s.cert.NotBefore)*2/5, rec.Provider+" has not renewed it")
	}
	text := strings.Join(problems, "; ")
	last, _ := c.problem.Load()
	if text != last {
		c.problem.Set(text)
		c.changed.Set(struct{}{})
	}
	if text != "" && (text != last || now.Sub(c.alarmed) >= alarmAgain) {
		c.alarmed = now
		c.log().Error("the CA needs care", "err", errors.New(text))
	}
}

func (c *CA) register() error {
	if c.registerer == nil {
		return nil
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	end := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return float64(t.Unix())
	}
	metrics := []prometheus.Collector{
		gauge("sallyport_ca_root_expiry_timestamp_seconds", "When the root under which leafs are signed ends, as Unix time; 0: it is not known yet.", func() float64 {
			rec := c.authority.record()
			if root := rec.root(rec.Active); root != nil {
				return end(root.NotAfter)
			}
			return 0
		}),
		gauge("sallyport_ca_intermediate_expiry_timestamp_seconds", "When the intermediate that signs leafs ends, as Unix time; 0: there is none. It is replaced at half its life.",
			func() float64 { return end(c.Status().IntermediateEnds) }),
		gauge("sallyport_ca_rotation_phase", "How far the replacement of the root has come: 0 none is replaced, 1 prepare, 2 activate, 3 retire.", func() float64 {
			if r := c.authority.record().Rotation; r != nil {
				return float64(slices.Index([]Phase{Idle, Preparing, Activating, Retiring}, r.Phase))
			}
			return 0
		}),
		gauge("sallyport_ca_rotation_waiting", "Holders of leafs for whom the replacement of the root waits.", func() float64 {
			w, _ := c.wait.Load()
			return float64(len(w.holders))
		}),
		gauge("sallyport_ca_problem", "1 while `sallyport ca status` names a problem, such as a CA that does not sign or a root that nears its end.", func() float64 {
			if text, _ := c.problem.Load(); text != "" {
				return 1
			}
			return 0
		}),
	}
	for _, m := range metrics {
		if err := c.registerer.Register(m); err != nil {
			return fmt.Errorf("metrics of the CA: %w", err)
		}
		c.collectors = append(c.collectors, m)
	}
	return nil
}
