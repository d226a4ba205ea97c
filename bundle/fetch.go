package bundle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/internal/remote"
)

const (
	// staleHints is how many refresh hints a bundle may grow old before there is an alarm. Others publish a new root that long before
	// they use it (SPIFFE Federation, 4.1), so from then on their leafs may be refused.
	staleHints = 3
	// savedOften is how often it is recorded that a bundle is still the same.
	savedOften = time.Minute
)

// outcomes are what can become of a question, or of the reading of a file.
var outcomes = []string{outcomeTaken, outcomeRefused, outcomeUnreadable, remote.Unavailable.String(), remote.Denied.String(), remote.Invalid.String()}

const (
	outcomeTaken      = "taken"
	outcomeRefused    = "refused" // what came must not follow what there is
	outcomeUnreadable = "unreadable"
)

// follow asks an endpoint for the bundle of d, again and again, until ctx ends.
func (s *Store) follow(ctx context.Context, d *domain, fetch func(context.Context) (*Document, error)) {
	for {
		doc, err := fetch(ctx)
		if ctx.Err() != nil {
			return
		}
		delay := s.fetched(ctx, d, doc, err)
		s.publish()
		if !backoff.Sleep(ctx, delay) {
			return
		}
	}
}

// fetched takes what an endpoint said, unless nobody wants to know any more since ctx has ended, and returns how long to leave it alone.
func (s *Store) fetched(ctx context.Context, d *domain, doc *Document, err error) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return tick
	}
	var outcome string
	if err != nil {
		outcome = remote.Invalid.String()
		if r, ok := errors.AsType[*remote.Error](err); ok {
			if r.Attempts == 0 && r.RetryAfter > 0 && d.err != nil {
				return r.RetryAfter // it was not asked; why it fails is known
			}
			outcome = r.Kind.String()
		}
		if unknown, ok := errors.AsType[stranger](err); ok && unknown.error != nil {
			err = fmt.Errorf("%w: if %s has changed its roots since it was asked last, get its bundle by another way and give it with `sallyport bundle import %s FILE`",
				err, d.endpointID.TrustDomain(), d.endpointID.TrustDomain())
		}
	} else {
		outcome, err = outcomeRefused, s.mayFollow(d, doc)
	}
	if err != nil {
		s.failed(d, outcome, err)
		least := max(MinRefreshHint, d.hint()/4)
		return backoff.Delay(d.failures, 2*least, max(2*least, d.hint())) // which may be half of it
	}
	changed := d.doc == nil || !sameText(d.doc, doc)
	s.believe(d, doc, d.url)
	s.succeeded(d)
	d.outcomes[outcomeTaken]++
	d.kept.Confirmed = d.since
	if changed || time.Since(d.saved) >= savedOften {
		s.keep(d)
	}
	// Those who ask one server do not all ask at once.
	return doc.hint - rand.N(doc.hint/10)
}

// mayFollow returns an error unless doc may come after what is believed of d. s.mu is held.
func (s *Store) mayFollow(d *domain, doc *Document) error {
	if err := usableNow(doc); err != nil {
		return err
	}
	old := d.doc
	if old == nil || !old.sequenced || d.kept.Endpoint != "" && d.kept.Endpoint != d.profile+" "+d.url {
		return nil
	}
	again := fmt.Sprintf("if that is meant, give its bundle with `sallyport bundle import %s FILE`", d.trustDomain)
	switch {
	case !doc.sequenced:
		return fmt.Errorf("bundle of %s: it has no sequence number any more, and had %d: %s", d.trustDomain, old.sequence, again)
	case doc.sequence < old.sequence:
		return fmt.Errorf("bundle of %s: its sequence number went back from %d to %d: %s", d.trustDomain, old.sequence, doc.sequence, again)
	case doc.sequence == old.sequence && !doc.same(old):
		return fmt.Errorf("bundle of %s: it is another one under the same sequence number %d: %s", d.trustDomain, doc.sequence, again)
	}
	return nil
}

// hint is how often d is asked for. s.mu is held.
func (d *domain) hint() time.Duration {
	if d.doc == nil {
		return DefaultRefreshHint
	}
	return d.doc.hint
}

// failed notes that there is no newer bundle of d. s.mu is held.
func (s *Store) failed(d *domain, outcome string, err error) {
	if d.err == nil || d.err.Error() != err.Error() {
		s.log.Warn("no newer bundle of a trust domain: what there is holds", "trust_domain", d.trustDomain.Name(), "err", err)
	}
	d.failures++
	d.err = err
	d.outcomes[outcome]++
}

// succeeded notes that what is believed of d is up to date. s.mu is held.
func (s *Store) succeeded(d *domain) {
	d.failures, d.err, d.since = 0, nil, time.Now()
}

// stale reports whether what is believed of d is too old, or nothing. Before it was asked for nobody knows. s.mu is held.
func (d *domain) stale(now time.Time) bool {
	return d.err != nil && (d.doc == nil || now.Sub(d.since) > staleHints*d.hint()) || d.doc != nil && d.bundle == nil
}

// watch gives an alarm when d has become stale, once. s.mu is held.
func (s *Store) watch(d *domain, now time.Time) {
	stale := d.stale(now)
	switch {
	case stale && !d.alarmed:
		s.log.Error("the bundle of a trust domain is old: when its roots change its services are refused", "audit", "trust_domain", "trust_domain", d.trustDomain.Name(),
			"duration", now.Sub(d.since), "err", d.problem(now))
	case !stale && d.alarmed:
		s.log.Info("the bundle of a trust domain is up to date again", "audit", "trust_domain", "trust_domain", d.trustDomain.Name())
	}
	d.alarmed = stale
}
