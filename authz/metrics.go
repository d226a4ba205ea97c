package authz

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/intention"
)

// reason is why a verdict came out as it did. The set is closed, as reasons are labels of metrics.
type reason uint8

const (
	unknownReason reason = iota // the zero value; never a reason to allow
	byIntention
	byDefault
	foreignTrustDomain
	unknownDatacenter
	foreignNamespace
	noPolicy
	unknownProxy
	wrongDestination
	noIdentity
	badCertificate
	panicked
	reasons // how many there are
)

// label is the reason as a metric spells it.
func (r reason) label() string {
	switch r {
	case byIntention:
		return "intention"
	case byDefault:
		return "default"
	case foreignTrustDomain:
		return "foreign_trust_domain"
	case unknownDatacenter:
		return "unknown_datacenter"
	case foreignNamespace:
		return "foreign_namespace"
	case noPolicy:
		return "no_policy"
	case unknownProxy:
		return "unknown_proxy"
	case wrongDestination:
		return "destination"
	case noIdentity:
		return "identity"
	case badCertificate:
		return "certificate"
	case panicked:
		return "panic"
	case unknownReason, reasons:
	}
	return "unknown"
}

// String is the reason in words.
func (r reason) String() string {
	switch r {
	case byIntention:
		return "intention"
	case byDefault:
		return "default policy"
	case foreignTrustDomain:
		return "foreign trust domain"
	case unknownDatacenter:
		return "unknown datacenter"
	case foreignNamespace:
		return "foreign namespace"
	case noPolicy:
		return "unknown destination"
	case unknownProxy:
		return "the proxy is not in the catalog"
	case wrongDestination:
		return "the destination is not the proxy's service"
	case noIdentity:
		return "the client is not a service of the mesh"
	case badCertificate:
		return "the client's certificate does not name the client, and it alone"
	case panicked:
		return "internal error"
	case unknownReason, reasons:
	}
	return "unknown reason"
}

func reasonOf(r intention.Reason) reason {
	switch r {
	case intention.ByIntention:
		return byIntention
	case intention.ByDefault:
		return byDefault
	case intention.ForeignTrustDomain:
		return foreignTrustDomain
	case intention.UnknownDatacenter:
		return unknownDatacenter
	case intention.ForeignNamespace:
		return foreignNamespace
	case intention.NoPolicy:
		return noPolicy
	}
	return unknownReason
}

// failure is why there was no verdict. The set is closed, too.
type failure uint8

const (
	unauthenticated failure = iota
	notReady
	ended
	failures
)

func (f failure) label() string {
	switch f {
	case unauthenticated:
		return "unauthenticated"
	case notReady:
		return "not_ready"
	case ended, failures:
	}
	return "ended"
}

// metrics holds each counter of its vectors, so that counting is one atomic addition.
type metrics struct {
	allowed, denied [reasons]prometheus.Counter
	errors          [failures]prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (m metrics, err error) {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_authz_decisions_total",
		Help: "Decisions of the ext_authz server, by what was decided and why.",
	}, []string{"decision", "reason"})
	errs := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_authz_errors_total",
		Help: "Calls of the ext_authz server that were not decided: from an unknown caller, before the catalog was known, or past their deadline.",
	}, []string{"cause"})
	if r != nil {
		if err := errors.Join(r.Register(decisions), r.Register(errs)); err != nil {
			return m, fmt.Errorf("authz metrics: %w", err)
		}
	}
	for i := range reasons {
		m.denied[i] = decisions.WithLabelValues("deny", i.label())
	}
	for _, i := range []reason{byIntention, byDefault} {
		m.allowed[i] = decisions.WithLabelValues("allow", i.label())
	}
	for i := range failures {
		m.errors[i] = errs.WithLabelValues(i.label())
	}
	return m, nil
}

func (m *metrics) count(v verdict) {
	if v.allowed {
		m.allowed[v.reason].Inc()
		return
	}
	m.denied[v.reason].Inc()
}

func (m *metrics) fail(f failure) { m.errors[f].Inc() }
