package ca

import (
	"context"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/internal/clocktest"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"pgregory.net/rapid"
)

// holder is who has a leaf and a bundle, in the model of a mesh: what it has accepted last.
type holder struct {
	name        string
	application bool
	leaf        *sds.SVID
	bundle      []*x509.Certificate
}

// pairing is a leaf and the first certificate of a bundle, by where they are.
type pairing struct {
	leaf   *sds.SVID
	bundle **x509.Certificate
}

// meshModel is a mesh of holders, whose memory is the Gate: it outlives the CA.
type meshModel struct {
	fatalf  func(string, ...any)
	c       *CA
	holders []*holder
	// checked are those who were found to accept each other.
	checked map[pairing]bool
	changed latest.Value[struct{}]
	// off is how far the clock of all is off, and ahead how much of it who is waited for does not believe, since when.
	off, ahead time.Duration
	since      time.Time
	// phase is what the rotation was in when somebody looked.
	phase Phase
}

// now is the clock of all.
func (m *meshModel) now() time.Time { return clocktest.Stepped(time.Now(), m.off) }

// stepClock moves the clock. Who knows who has accepted what, which is the Gate, is no faster to believe that a leaf has ended.
func (m *meshModel) stepClock(by time.Duration) {
	m.off += by
	m.ahead = max(0, m.ahead+by)
	if by > 0 {
		m.since = time.Now()
	}
}

// believed is the time by which a leaf has ended for sure.
func (m *meshModel) believed() time.Time {
	if time.Since(m.since) > m.c.cfg.LeafTTL {
		m.ahead = 0
	}
	return m.now().Add(-m.ahead)
}

func (m *meshModel) alive(h *holder) bool {
	return h.leaf != nil && m.now().Before(h.leaf.Certificates[0].NotAfter)
}

func (m *meshModel) Changed() <-chan struct{} { return m.changed.Changed() }

func (m *meshModel) those(lacks func(*holder) bool) (list []Holder) {
	for _, h := range m.holders {
		if h.leaf != nil && m.believed().Before(h.leaf.Certificates[0].NotAfter) && lacks(h) {
			list = append(list, Holder{Name: h.name, Application: h.application, Ends: h.leaf.Certificates[0].NotAfter})
		}
	}
	return list
}

func (m *meshModel) Untold(roots []*x509.Certificate) []Holder {
	return m.those(func(h *holder) bool {
		return slices.ContainsFunc(roots, func(r *x509.Certificate) bool { return !slices.ContainsFunc(h.bundle, r.Equal) })
	})
}

func (m *meshModel) Outdated(root *x509.Certificate) []Holder {
	return m.those(func(h *holder) bool { return !leadsTo(h.leaf.Certificates, root) })
}

// leadsTo reports whether what signed the leaf was signed by root itself.
func leadsTo(chain []*x509.Certificate, root *x509.Certificate) bool {
	for _, c := range chain[:min(2, len(chain))] {
		if c.CheckSignatureFrom(root) == nil {
			return true
		}
	}
	return false
}

// told has h accept the bundle of now.
func (m *meshModel) told(h *holder) {
	roots, ok := m.c.Roots().Load()
	if !ok {
		return
	}
	var bundle []*x509.Certificate
	for _, r := range roots.List() {
		bundle = append(bundle, r.Certificate)
	}
	if !slices.Equal(bundle, h.bundle) {
		h.bundle = bundle
	}
}

// renew has h accept a new leaf, which is given to nobody who does not know what verifies it.
func (m *meshModel) renew(h *holder) {
	if !m.alive(h) {
		m.told(h)
	}
	issuer, err := NewIssuer(IssuerConfig{Provider: m.c, TrustDomain: m.c.TrustDomain(), TTL: m.c.cfg.LeafTTL})
	if err != nil {
		m.fatalf("%v", err)
	}
	svid, _, err := issuer.issue(context.Background(), service(m.c.TrustDomain(), "web").ID())
	if err != nil {
		return // it keeps what it has
	}
	h.leaf = svid
	if m.c.WantsCSR() { // a provider that signs each leaf may do so under another root, of which all were told
		return
	}
	if root := m.activeRoots(); len(root) != 1 || !leadsTo(svid.Certificates, root[0]) {
		m.fatalf("a leaf is not signed under the root that does: %+v", m.c.Status())
	}
}

// follows are the phases that a phase is left for.
var follows = map[Phase][]Phase{
	Idle: {Idle, Preparing}, Preparing: {Preparing, Idle, Activating}, Activating: {Activating, Retiring}, Retiring: {Retiring, Idle},
}

// check: everybody who has a leaf is accepted by everybody, there is one who signs, and no phase is left out.
func (m *meshModel) check(when string) {
	s := m.c.Status()
	phase, signing := Idle, 0
	if s.Rotation != nil {
		phase = s.Rotation.Phase
	}
	if !slices.Contains(follows[m.phase], phase) {
		m.fatalf("%s: the phase %q after %q", when, phase, m.phase)
	}
	m.phase = phase
	for _, r := range s.Roots {
		if r.State == active {
			signing++
		}
	}
	if signing > 1 || signing == 0 && s.Provider == Builtin {
		m.fatalf("%s: %d roots under which is signed: %+v", when, signing, s)
	}
	for _, h := range m.holders {
		if h.leaf != nil && !m.believed().Before(h.leaf.Certificates[0].NotAfter) {
			h.leaf = nil // it has ended, and no clock brings it back
		}
	}
	for _, h := range m.holders {
		for _, g := range m.holders {
			if !m.alive(h) || !m.alive(g) {
				continue
			}
			if len(g.bundle) == 0 {
				m.fatalf("%s: %s has a leaf and no roots", when, g.name)
			}
			// While a bundle is told anew, nothing that was accepted is refused but by time.
			key := pairing{h.leaf, &g.bundle[0]}
			if m.checked[key] {
				continue
			}
			m.checked[key] = true
			now := m.now()
			if begins := h.leaf.Certificates[0].NotBefore; now.Before(begins) { // it was made before the clock was set back
				now = begins
			}
			want := certpath.Wanted{ID: service(m.c.TrustDomain(), "web").ID(), Key: h.leaf.PrivateKey.Public(), Now: now}
			if err := certpath.VerifyChain(h.leaf.Certificates, g.bundle, want); err != nil {
				m.fatalf("%s: the leaf of %s, a chain of %d, at %s, with %d roots: %v\n%+v", when, h.name, len(h.leaf.Certificates), g.name, len(g.bundle), err, m.c.Status())
			}
		}
	}
}

// step has the CA do what there is to do.
func (m *meshModel) step() { m.c.step(context.Background(), m.now()) }

// crashMesh begins a rotation to a provider and goes through it, with a crash at the operation n of the disk, or none. It returns whether
// there was one.
func crashMesh(t *testing.T, n int, from, to string) (crashed bool) {
	t.Helper()
	dir := caDir(t)
	vault, plugin := newFakeUpstream(t), newFakeUpstream(t)
	m := &meshModel{fatalf: t.Fatalf, checked: map[pairing]bool{}}
	cfg := Config{
		now: m.now, Dir: dir, TrustDomain: trustDomain(t), LeafTTL: 12 * time.Hour, Gate: m, Provider: from,
		Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}, "plugin": {Upstream: plugin, EachLeaf: true}},
	}
	reopen := func(step func(string) error) {
		t.Helper()
		c, err := open(cfg, step)
		if err != nil {
			t.Fatalf("crash %d: %v", n, err)
		}
		m.c = c
		for name, u := range map[string]*fakeUpstream{"vault": vault, "plugin": plugin} {
			roots, _ := u.roots.Load()
			c.know(name, roots)
		}
	}
	reopen(nil)
	m.step()
	for i := range 3 {
		h := &holder{name: fmt.Sprintf("holder %d", i), application: (i+n)%2 == 1} // the late one is one or the other
		m.holders = append(m.holders, h)
		m.renew(h)
	}
	m.check("before")
	mustClose(t, m.c)
	armed := false
	inner, dead := crashAt(n, dir)
	reopen(func(op string) error {
		if !armed {
			return nil
		}
		return inner(op)
	})
	m.step()
	armed = true
	// live is a minute of the mesh: the last holder is told and renewed late.
	live := func(i int) {
		m.step()
		m.check(fmt.Sprintf("crash %d, minute %d", n, i))
		for j, h := range m.holders {
			if j < 2 || i%7 == 6 {
				m.told(h)
				if roots := m.activeRoots(); !m.alive(h) || !leadsTo(h.leaf.Certificates, roots[0]) || time.Until(h.leaf.Certificates[0].NotAfter) < 6*time.Hour {
					m.renew(h)
				}
			}
			m.check(fmt.Sprintf("crash %d, minute %d, holder %d", n, i, j))
		}
		time.Sleep(time.Minute)
	}
	started := m.c.Rotate(RotateOptions{To: to}) == nil
	for i := 0; i < 40 && !dead(); i++ {
		live(i)
	}
	for i := range 3 { // those who are left do not notice at once
		live(i)
	}
	if !dead() {
		time.Sleep(keepKeys)
		for i := range 3 {
			live(i)
		}
	}
	crashed = dead()
	mustClose(t, m.c)
	reopen(nil)
	m.check(fmt.Sprintf("crash %d, after the restart", n))
	if m.c.Status().Rotation == nil && m.c.Status().Provider == from && (from != to || !started) {
		// The crash came before the step that begins it.
		if err := m.c.Rotate(RotateOptions{To: to}); err != nil {
			t.Fatalf("crash %d: the rotation cannot be begun again: %v", n, err)
		}
	}
	for i := range 30 {
		live(i)
	}
	time.Sleep(keepKeys)
	live(0)
	live(1)
	s := m.c.Status()
	if s.Rotation != nil || s.Provider != to || len(s.Roots) != 1 || s.Problem != "" {
		t.Errorf("crash %d: not at the end: %+v %+v", n, s, s.Rotation)
	}
	want := map[string][]string{Builtin: {intermediateFile, rootFile}, "vault": {intermediateFile, recordFile}, "plugin": {recordFile}}
	if diff := cmp.Diff(want[to], filesOf(t, dir)); diff != "" {
		t.Errorf("crash %d: %s", n, diff)
	}
	mustClose(t, m.c)
	return crashed
}

// long is that the tests may take minutes: make test-long.
func long() bool { return os.Getenv("SALLYPORT_LONG") != "" }

// TestKilled dies before each operation on the disk of a whole rotation, from preparation to the removal of keys: at any time everybody is
// accepted by everybody, and the next process goes on to the end. Each fifth, all with SALLYPORT_LONG.
func TestKilled(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		points   int
	}{{Builtin, Builtin, 50}, {Builtin, "vault", 35}, {"vault", "plugin", 20}, {"plugin", Builtin, 25}} {
		t.Run(tt.from+" to "+tt.to, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				every := 5
				if long() {
					every = 1
				}
				n := 0
				for crashMesh(t, n, tt.from, tt.to) {
					n += every
				}
				t.Logf("%d points", n)
				if n < tt.points {
					t.Errorf("%d points at which it can die, want %d at least", n, tt.points)
				}
			})
		})
	}
}

// event is what happens in anyOrder.
type event struct {
	What string
	N    int
	Flag bool
}

var events = []string{"told", "renew", "all", "all", "time", "time", "long", "rotate", "rotate", "restart", "disk", "away", "root", "gone", "override", "cancel", "clock", "clock"}

// TestAnyOrder rotates among providers while holders come and go, disks fail, processes restart, clocks step and providers are away, in any order:
// everybody who has a leaf is accepted by everybody, always, and when all is well again it comes to an end.
func TestAnyOrder(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); !long() {
		was := checks.Value.String()
		if err := checks.Value.Set("15"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = checks.Value.Set(was) }()
	}
	rapid.Check(t, func(r *rapid.T) {
		list := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) event {
			return event{rapid.SampledFrom(events).Draw(r, "what"), rapid.IntRange(0, 599).Draw(r, "n"), rapid.Bool().Draw(r, "flag")}
		}), 5, 40).Draw(r, "events")
		failed := ""
		synctest.Test(t, func(t *testing.T) { failed = anyOrder(t, list) })
		if failed != "" {
			r.Fatal(failed)
		}
	})
}

// anyOrder has the events happen and returns what was wrong.
func anyOrder(t *testing.T, list []event) (failed string) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			failed = fmt.Sprint(p)
		}
	}()
	dir, full := caDir(t), ""
	step := func(op string) error {
		if full != "" && strings.HasPrefix(op, full) {
			return errCrash
		}
		return nil
	}
	vault, plugin := newFakeUpstream(t), newFakeUpstream(t)
	upstreams := map[string]*fakeUpstream{"vault": vault, "plugin": plugin}
	m := &meshModel{fatalf: func(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }, checked: map[pairing]bool{}}
	cfg := Config{
		now: m.now, Dir: dir, TrustDomain: trustDomain(t), LeafTTL: 2 * time.Hour, IntermediateTTL: 100 * time.Hour, Gate: m,
		Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}, "plugin": {Upstream: plugin, EachLeaf: true}},
	}
	know := func() {
		for name, u := range upstreams {
			roots, _ := u.roots.Load()
			m.c.know(name, roots)
		}
	}
	reopen := func() {
		c, err := open(cfg, step)
		if err != nil {
			m.fatalf("%v", err)
		}
		m.c = c
		know()
		m.step()
	}
	reopen()
	defer func() { mustClose(t, m.c) }()
	for i := range 4 {
		m.holders = append(m.holders, &holder{name: fmt.Sprintf("holder %d", i), application: i >= 2})
		m.renew(m.holders[i])
	}
	everybody := func() {
		for _, h := range m.holders {
			m.told(h)
			m.renew(h)
		}
	}
	for i, e := range list {
		h, u := m.holders[e.N%len(m.holders)], upstreams[[]string{"vault", "plugin"}[e.N%2]]
		switch e.What {
		case "told":
			m.told(h)
		case "renew":
			m.renew(h)
		case "all":
			everybody()
		case "time":
			time.Sleep(time.Duration(1+e.N) * time.Second)
		case "long":
			time.Sleep(time.Duration(1+e.N%30) * time.Hour)
		case "rotate":
			_ = m.c.Rotate(RotateOptions{To: []string{Builtin, Builtin, "vault", "plugin"}[e.N%4]}) // which may be refused
		case "restart":
			mustClose(t, m.c)
			was := full
			full = "" // with a full disk it may not open, if an intermediate is over
			reopen()
			full = was
		case "disk":
			full = []string{"", "", "write", "rename", "sync directory", "create"}[e.N%6]
		case "away":
			u.set(map[bool]error{true: ErrUnavailable}[e.Flag])
		case "root":
			root, old := newForeignCA(t, 10*365*24*time.Hour), u.signer
			u.roots.Set([]*x509.Certificate{old.cert, root.cert})
			if e.Flag {
				u.use(root)
			}
		case "gone":
			u.roots.Set([]*x509.Certificate{u.signer.cert})
		case "clock": // by six hours at most, either way
			m.stepClock(min(max(m.off+time.Duration(e.N-300)*time.Minute, -6*time.Hour), 6*time.Hour) - m.off)
		case "override":
			_ = m.c.Override([]string{h.name}, false) // which may be refused
		case "cancel":
			_ = m.c.Cancel() // which may be refused
		}
		know()
		m.step()
		m.check(fmt.Sprintf("event %d, %s", i, e.What))
	}
	full = ""
	vault.set(nil)
	plugin.set(nil)
	m.stepClock(-m.off) // with a clock that is behind, nothing that a provider signs is valid yet
	// Longer than a leaf lives: a provider that signs under a new root before all are told of it has nothing that could be given out.
	for range 60 {
		everybody()
		time.Sleep(5 * time.Minute)
		m.step()
		m.check("at the end")
	}
	// A provider with a new root under which it does not sign is waited for.
	if s := m.c.Status(); s.Rotation != nil && s.Rotation.From != s.Rotation.To {
		return fmt.Sprintf("it does not come to an end: %+v %+v", s, s.Rotation)
	}
	return ""
}

// activeRoots is the root under which is signed.
func (m *meshModel) activeRoots() []*x509.Certificate {
	rec := m.c.authority.record()
	if root := rec.root(rec.Active); root != nil {
		return []*x509.Certificate{root}
	}
	return nil
}
