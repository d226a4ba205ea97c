package plugin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/internal/latest"
)

const (
	// describedFor is for how long a description holds: the program may be replaced by a newer one.
	describedFor = time.Hour
	// describedStill is for how long an older one does when there is no other.
	describedStill = time.Minute
	// maxConcurrency bounds how many certificates a plug-in can want to sign at once.
	maxConcurrency = 64
	// least, most and usual are how long it is until the roots are asked for again.
	least, most, usual = 10 * time.Second, time.Hour, time.Minute
	// maxDistrusted bounds the roots that must leave.
	maxDistrusted = 64
)

// description is what a plug-in says of itself.
type description struct {
	signs   []string
	longest map[string]time.Duration // by kind; 0: not said
	slots   chan struct{}            // one is held by each who has something signed
	since   time.Time
}

// describe asks for the description unless it is known. One that is old is good as long as there is no other.
func (c *CA) describe(ctx context.Context) (*description, error) {
	fresh := func() (*description, bool) {
		d, ok := c.described.Load()
		return d, ok && time.Since(d.since) < describedFor
	}
	if d, ok := fresh(); ok {
		return d, nil
	}
	select {
	case c.describing <- struct{}{}:
		defer func() { <-c.describing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: plug-in %s: describe: %w", ca.ErrUnavailable, c.cfg.Name, ctx.Err())
	}
	old, ok := fresh()
	if ok {
		return old, nil
	}
	d, err := c.description(ctx, old)
	switch {
	case err != nil && old != nil:
		c.log.Warn("the plug-in does not describe itself now", "err", err)
		still := *old
		still.since = time.Now().Add(describedStill - describedFor)
		c.described.Set(&still)
		return &still, nil
	case err != nil:
		return nil, err
	}
	c.described.Set(d)
	return d, nil
}

func (c *CA) description(ctx context.Context, old *description) (*description, error) {
	a, err := c.put(ctx, question{Version: version, Op: opDescribe, TrustDomain: c.cfg.TrustDomain.Name()})
	if err != nil {
		return nil, err
	}
	wrong := func(format string, args ...any) (*description, error) {
		return nil, fmt.Errorf("%w: plug-in %s: describe: %s", ca.ErrInvalid, c.cfg.Name, fmt.Sprintf(format, args...))
	}
	d := &description{longest: map[string]time.Duration{}, since: time.Now()}
	for _, kind := range []string{intermediate, leaf} {
		if slices.Contains(a.Signs, kind) {
			d.signs = append(d.signs, kind)
		}
		switch n := a.MaxTTL[kind]; {
		case n < 0:
			return wrong("max_ttl_seconds of %s is %d", kind, n)
		case n > 0:
			d.longest[kind] = time.Duration(min(n, int64(100*365*24*time.Hour/time.Second))) * time.Second
		}
	}
	switch {
	case a.Version != version:
		return wrong("it answers in version %d, asked was in %d", a.Version, version)
	case len(d.signs) == 0:
		return wrong("signs is %.100q: say %q, %q or both", a.Signs, intermediate, leaf)
	case a.Concurrency < 0 || a.Concurrency > maxConcurrency:
		return wrong("concurrency is %d: say 1 to %d", a.Concurrency, maxConcurrency)
	}
	n := max(a.Concurrency, 1)
	if old != nil && cap(old.slots) == n {
		d.slots = old.slots
	} else {
		d.slots = make(chan struct{}, n)
	}
	return d, nil
}

// Distrusted are the SHA-256 of roots that must leave at once, as the plug-in says. It is set before the roots that leave them out.
func (c *CA) Distrusted() *latest.Value[[][sha256.Size]byte] { return &c.distrusted }

// WatchRoots implements ca.Upstream.
func (c *CA) WatchRoots(ctx context.Context, f func([]*x509.Certificate)) error {
	return ca.PollRoots(ctx, c.log, usual, func(ctx context.Context) ([]*x509.Certificate, time.Duration, error) {
		roots, again, err := c.roots(ctx)
		c.unknown.Set(err)
		return roots, again, err
	}, f)
}

// RootsProblem implements ca.RootsProblem.
func (c *CA) RootsProblem() error {
	err, _ := c.unknown.Load()
	return err
}

// roots asks for the roots, and says when to ask again.
func (c *CA) roots(ctx context.Context) ([]*x509.Certificate, time.Duration, error) {
	if _, err := c.describe(ctx); err != nil { // what it says is of another version
		return nil, 0, err
	}
	a, err := c.put(ctx, question{Version: version, Op: opRoots, TrustDomain: c.cfg.TrustDomain.Name()})
	if err != nil {
		return nil, 0, err
	}
	roots, distrusted, err := readRoots(a, time.Now())
	if err != nil {
		return nil, 0, fmt.Errorf("plug-in %s: roots: %w", c.cfg.Name, err)
	}
	if last, _ := c.distrusted.Load(); !slices.Equal(distrusted, last) {
		c.log.Error("the CA distrusts roots of its own", "count", len(distrusted))
		c.distrusted.Set(distrusted)
	}
	if len(roots) == 0 {
		return nil, 0, fmt.Errorf("%w: plug-in %s: roots: none is left that is valid and not distrusted", ca.ErrInvalid, c.cfg.Name)
	}
	delay := usual
	if a.Refresh != 0 {
		delay = time.Duration(min(max(a.Refresh, int64(least/time.Second)), int64(most/time.Second))) * time.Second
	}
	return roots, delay - delay/10 + rand.N(delay/5+1), nil
}

// readRoots returns the roots that are valid and not distrusted, sorted, and the distrusted ones.
func readRoots(a *answer, now time.Time) (roots []*x509.Certificate, distrusted [][sha256.Size]byte, err error) {
	if len(a.Distrust) > maxDistrusted {
		return nil, nil, fmt.Errorf("%w: distrust has %d entries, more than %d", ca.ErrInvalid, len(a.Distrust), maxDistrusted)
	}
	for _, text := range a.Distrust {
		sum, err := hex.DecodeString(strings.ReplaceAll(text, ":", "")) // as openssl prints them
		if err != nil || len(sum) != sha256.Size {
			return nil, nil, fmt.Errorf("%w: %.100q in distrust is no SHA-256 in hexadecimal", ca.ErrInvalid, text)
		}
		distrusted = append(distrusted, [sha256.Size]byte(sum))
	}
	certs, err := ca.ParseCertificates(strings.Join(a.Roots, "\n"))
	if err != nil {
		return nil, nil, err
	}
	for _, c := range certs {
		switch {
		case !c.IsCA || !certpath.SelfSigned(c):
			return nil, nil, fmt.Errorf("%w: %.100q is not a root: self-signed, with CA:TRUE", ca.ErrInvalid, c.Subject)
		case now.After(c.NotAfter) || slices.Contains(distrusted, sha256.Sum256(c.Raw)) || slices.ContainsFunc(roots, c.Equal):
		default:
			roots = append(roots, c)
		}
	}
	slices.SortFunc(roots, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
	return roots, distrusted, nil
}
