package bundle

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Status is what is known of one other trust domain.
type Status struct {
	TrustDomain spiffeid.TrustDomain
	// File is where it is defined.
	File string
	// Source is the endpoint's URL, or the file of the bundle, and Profile the endpoint's; empty: there is no endpoint.
	Source, Profile string
	// Document is what is believed; nil: nothing yet.
	Document *Document
	// Roots is how many of its certificates are used.
	Roots int
	// Confirmed is when the source said it last. Zero: not since the first bundle was given.
	Confirmed time.Time
	// Problem is why there is nothing newer, or why some of it is not used; empty: all is well.
	Problem string
	// Stale says that there is an alarm: nobody confirmed it for three refresh hints, or nothing of it can be used.
	Stale bool
}

// Status describes the trust domains, sorted, and the files that cannot be used, with why.
func (s *Store) Status() (domains []Status, problems []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, td := range s.sorted() {
		d := s.domains[td]
		out := Status{TrustDomain: td, File: d.file, Source: d.url, Profile: d.profile, Document: d.doc, Stale: d.stale(now)}
		if d.url == "" {
			out.Source = d.definition.bundle
		}
		if d.bundle != nil {
			out.Roots = len(d.bundle.Roots.List())
		}
		if d.doc != nil && (d.url == "" || !d.kept.Confirmed.IsZero()) {
			out.Confirmed = d.since
		}
		if err := d.problem(now); err != nil {
			out.Problem = err.Error()
		}
		domains = append(domains, out)
	}
	if s.unread != nil {
		problems = append(problems, s.unread.Error())
	}
	for _, file := range slices.Sorted(maps.Keys(s.bad)) {
		problems = append(problems, s.bad[file].Error())
	}
	return domains, problems
}

// problem is what is wrong with d; nil: nothing. s.mu is held.
func (d *domain) problem(now time.Time) error {
	var none error
	switch {
	case d.doc == nil && d.err == nil:
		return errors.New("it has not been asked for yet")
	case d.doc == nil:
		none = errors.New("there is no bundle yet, so nobody of it can be let in")
	case d.bundle == nil:
		none = errors.New("nothing of its bundle can be used, so nobody of it can be let in")
	case d.stale(now):
		none = fmt.Errorf("its bundle was confirmed last %s ago, and should be every %s", now.Sub(d.since).Round(time.Second), d.hint())
	}
	if d.unused != "" {
		none = errors.Join(none, errors.New(d.unused))
	}
	return errors.Join(none, d.err)
}

// Change is what an import does.
type Change struct {
	// Added, Removed and Kept are the certificates that come, go and stay.
	Added, Removed, Kept []*x509.Certificate
	// Old and New are the bundles; Old is nil if there was none.
	Old, New *Document
}

// Import has text be the bundle of a trust domain with an endpoint, whatever its sequence number: the way back where the endpoint cannot
// be verified any more. Unless apply is true it only says what that would change. The error is that text is no bundle that can be used, or
// that no such trust domain is defined.
func (s *Store) Import(td spiffeid.TrustDomain, text []byte, apply bool) (Change, error) {
	doc, err := parse(td, text)
	if err == nil {
		err = usableNow(doc)
	}
	if err != nil {
		return Change{}, err
	}
	change, err := s.take(td, doc, apply)
	if err == nil && apply {
		s.publish()
		s.askAgain(td)
	}
	return change, err
}

func (s *Store) take(td spiffeid.TrustDomain, doc *Document, apply bool) (Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.domains[td]
	switch {
	case d == nil:
		return Change{}, fmt.Errorf("the trust domain %s is not known: write a file for it into --trust-domains first", td)
	case d.url == "":
		return Change{}, fmt.Errorf("the bundle of %s is the file %s: replace that", td, d.definition.bundle)
	}
	change := Change{Old: d.doc, New: doc}
	had := func(list []*x509.Certificate, c *x509.Certificate) bool { return slices.ContainsFunc(list, c.Equal) }
	var old []*x509.Certificate
	if d.doc != nil {
		old = d.doc.authorities
	}
	for _, c := range doc.authorities {
		if had(old, c) {
			change.Kept = append(change.Kept, c)
		} else {
			change.Added = append(change.Added, c)
		}
	}
	for _, c := range old {
		if !had(doc.authorities, c) {
			change.Removed = append(change.Removed, c)
		}
	}
	if !apply {
		return change, nil
	}
	if d.stop != nil {
		d.stop() // what the endpoint says of what was asked before is not believed after it
	}
	s.believe(d, doc, "imported")
	d.kept.Confirmed, d.since = time.Time{}, time.Now()
	s.keep(d)
	return change, nil
}

// askAgain has the endpoint of a trust domain be asked at once: maybe it can be verified now.
func (s *Store) askAgain(td spiffeid.TrustDomain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.domains[td]; d != nil && d.stop != nil {
		d.stop()
		s.start(d)
	}
}

// collector exports a Store's state at the moment at which it is asked for.
type collector struct{ s *Store }

var (
	confirmed = prometheus.NewDesc("sallyport_trust_domain_confirmed_timestamp_seconds",
		"When the bundle of another trust domain was last confirmed by its file or endpoint, as Unix time.", []string{"trust_domain"}, nil)
	staleness = prometheus.NewDesc("sallyport_trust_domain_stale",
		"1 if the bundle of another trust domain was not confirmed for three of its refresh hints, or nothing of it can be used.", []string{"trust_domain"}, nil)
	sequences = prometheus.NewDesc("sallyport_trust_domain_sequence",
		"The sequence number of the bundle of another trust domain, if it has one.", []string{"trust_domain"}, nil)
	rootCount = prometheus.NewDesc("sallyport_trust_domain_roots",
		"Roots of another trust domain that are used.", []string{"trust_domain"}, nil)
	fetches = prometheus.NewDesc("sallyport_trust_domain_fetches_total",
		"Bundles of another trust domain that were asked for, by what became of it: taken, unavailable, denied, invalid, refused (what came must not follow what there is), unreadable (of a file).",
		[]string{"trust_domain", "outcome"}, nil)
	undefined = prometheus.NewDesc("sallyport_trust_domain_bad_definitions",
		"Files of --trust-domains that cannot be used.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{confirmed, staleness, sequences, rootCount, fetches, undefined} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	domains, problems := c.s.Status()
	for _, d := range domains {
		gauge := func(desc *prometheus.Desc, value float64) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, d.TrustDomain.Name())
		}
		if !d.Confirmed.IsZero() {
			gauge(confirmed, float64(d.Confirmed.UnixMilli())/1000)
		}
		stale := 0.0
		if d.Stale {
			stale = 1
		}
		gauge(staleness, stale)
		gauge(rootCount, float64(d.Roots))
		if d.Document != nil && d.Document.sequenced {
			gauge(sequences, float64(d.Document.sequence))
		}
	}
	for td, counts := range c.s.outcomes() {
		for outcome, n := range counts {
			out <- prometheus.MustNewConstMetric(fetches, prometheus.CounterValue, float64(n), td.Name(), outcome)
		}
	}
	out <- prometheus.MustNewConstMetric(undefined, prometheus.GaugeValue, float64(len(problems)))
}

// outcomes is what became of the questions for each trust domain.
func (s *Store) outcomes() map[spiffeid.TrustDomain]map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[spiffeid.TrustDomain]map[string]uint64{}
	for td, d := range s.domains {
		out[td] = maps.Clone(d.outcomes)
	}
	return out
}
