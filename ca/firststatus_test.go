package ca

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// silentUpstream is a CA that does not tell its roots.
type silentUpstream struct {
	*fakeUpstream
	why error
}

func (u silentUpstream) RootsProblem() error { return u.why }

// TestRootsNotKnown: the status of a mesh whose provider never told its roots says why, at once, and so does a rotation to such a provider.
func TestRootsNotKnown(t *testing.T) {
	silent := silentUpstream{&fakeUpstream{t: t}, errors.New("connection refused: is it running?")}
	cfg := Config{
		Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour, Provider: "vault",
		Upstreams: map[string]UpstreamConfig{"vault": {Upstream: silent}},
	}
	c := mustOpen(t, cfg)
	if got, want := c.Status().Problem, "the roots of vault are not known: connection refused: is it running?"; got != want {
		t.Errorf("problem %q, want %q", got, want)
	}
	c.judge(nil, time.Now())
	if got := c.Status().Problem; strings.Count(got, "connection refused") != 1 {
		t.Errorf("problem %q, want it once", got)
	}
	mustClose(t, c)

	cfg.Dir, cfg.Provider = caDir(t), ""
	c = mustOpen(t, cfg)
	defer mustClose(t, c)
	if got := c.Status().Problem; got != "" {
		t.Errorf("problem %q of a provider that does not sign", got)
	}
	if err := c.Rotate(RotateOptions{To: "vault"}); err == nil || !strings.Contains(err.Error(), "is it running?") {
		t.Errorf("error %v, want why nothing is known of its roots", err)
	}
}

// TestWaitingAtOnce: who is waited for is in the status as soon as a rotation begins, before Run has looked, and who was passed over is not
// any more.
func TestWaitingAtOnce(t *testing.T) {
	gate := &fakeGate{}
	gate.set([]Holder{{Name: "proxy api"}, {Name: "proxy web"}, {Name: "uid 7", Application: true}}, nil)
	c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour, Gate: gate})
	defer mustClose(t, c)
	waits := func() string {
		var names []string
		for _, h := range c.Status().Rotation.Waiting {
			names = append(names, h.Name)
		}
		return strings.Join(names, ", ")
	}
	if err := c.Rotate(RotateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := waits(); got != "proxy api, proxy web" {
		t.Errorf("waits for %q before Run has looked", got)
	}
	if _, err := c.advance(time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := c.Override([]string{"proxy web"}, false); err != nil {
		t.Fatal(err)
	}
	if got := waits(); got != "proxy api" {
		t.Errorf("waits for %q after one was passed over", got)
	}
}

func TestMade(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	for _, ttl := range []time.Duration{2 * time.Minute, time.Hour, 48 * time.Hour, 240 * time.Hour, 241 * time.Hour, 10 * 365 * 24 * time.Hour} {
		p, err := newPair(rootProfile(), trustDomain(t).ID().URL(), ttl, now, nil)
		if err != nil {
			t.Fatal(err)
		}
		if off := Made(p.cert.NotBefore, p.cert.NotAfter).Sub(now).Abs(); off > 2*time.Second {
			t.Errorf("one that lives for %s was made %s off", ttl, off)
		}
	}
}

var _ RootsProblem = silentUpstream{}
