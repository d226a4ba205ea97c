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
	unknownTrustDomain
	speaksFirst
	unknownDatacenter
	foreignNamespace
	noPolicy
	unknownProxy
	wrongDestination
	noIdentity
	badCertificate
	unrecorded
	revoked
	byNoPermission
	byPath
	byToken
	requestsOnly
	noHeaders
	panicked
	reasons // how many there are
)

// words are the reason as a metric spells it, and as a sentence has it.
func (r reason) words() (label, text string) {
	w := [reasons][2]string{
		unknownReason:      {"unknown", "unknown reason"},
		byIntention:        {"intention", "intention"},
		byDefault:          {"default", "default policy"},
		foreignTrustDomain: {"foreign_trust_domain", "foreign trust domain"},
		unknownTrustDomain: {"unknown_trust_domain", "no bundle of the client's trust domain is known"},
		speaksFirst:        {"server_first", "the client is of another trust domain, and the application speaks first"},
		unknownDatacenter:  {"unknown_datacenter", "unknown datacenter"},
		foreignNamespace:   {"foreign_namespace", "foreign namespace"},
		noPolicy:           {"no_policy", "unknown destination"},
		unknownProxy:       {"unknown_proxy", "the proxy is not in the catalog"},
		wrongDestination:   {"destination", "the destination is not the proxy's service"},
		noIdentity:         {"identity", "the client is not a service of the mesh"},
		badCertificate:     {"certificate", "the client's certificate does not name the client, and it alone"},
		unrecorded:         {"unrecorded", "the client is let in as soon as that is recorded on disk"},
		revoked:            {"revoked", "the client's certificate or identity is revoked"},
		byNoPermission:     {"no_permission", "no permission is met, so the default policy holds"},
		byPath:             {"path", "the path is not canonical, and permissions look at it"},
		byToken:            {"token", "the request has no good token of those that are asked for"},
		requestsOnly:       {"requests_only", "permissions are about requests, and deny connections"},
		noHeaders:          {"headers", "permissions look at what the listener does not send yet: all headers"},
		panicked:           {"panic", "internal error"},
	}[r]
	return w[0], w[1]
}

func (r reason) label() string {
	label, _ := r.words()
	return label
}

// String is the reason in words.
func (r reason) String() string {
	_, text := r.words()
	return text
}

func reasonOf(r intention.Reason) reason {
	of := [...]reason{
		intention.ByIntention: byIntention, intention.ByDefault: byDefault, intention.NoPolicy: noPolicy,
		intention.UnknownTrustDomain: unknownTrustDomain, intention.SpeaksFirst: speaksFirst, intention.NoService: noIdentity,
		intention.ForeignTrustDomain: foreignTrustDomain, intention.UnknownDatacenter: unknownDatacenter, intention.ForeignNamespace: foreignNamespace,
		intention.ByRevocation: revoked, intention.ByNoPermission: byNoPermission, intention.ByPath: byPath, intention.ByToken: byToken, intention.RequestsOnly: requestsOnly,
	}
	if int(r) < len(of) {
		return of[r]
	}
	return unknownReason
}

// failure is why there was no verdict. The set is closed, too.
type failure uint8

const (
	unauthenticated failure = iota
	notReady
	longRequests
	ended
	failures
)

func (f failure) label() string {
	switch f {
	case unauthenticated:
		return "unauthenticated"
	case notReady:
		return "not_ready"
	case longRequests:
		return "long_requests"
	case ended, failures:
	}
	return "ended"
}

// metrics holds each counter of its vectors, so that counting is one atomic addition.
type metrics struct {
	allowed, denied [reasons]prometheus.Counter
	errors          [failures]prometheus.Counter
	permissions     *permissionCounters
}

func newMetrics(r prometheus.Registerer) (m metrics, err error) {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_authz_decisions_total",
		Help: "Decisions of the ext_authz server, by what was decided and why.",
	}, []string{"decision", "reason"})
	errs := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_authz_errors_total",
		Help: "Calls of the ext_authz server that were not decided: from an unknown caller, before the catalog was known, past their deadline, or past it in the line of requests that are long and whose permissions look through what is long.",
	}, []string{"cause"})
	m.permissions = newPermissionCounters()
	if r != nil {
		if err := errors.Join(r.Register(decisions), r.Register(errs), r.Register(m.permissions.vec)); err != nil {
			return m, fmt.Errorf("authz metrics: %w", err)
		}
	}
	for i := range reasons {
		m.denied[i] = decisions.WithLabelValues("deny", i.label())
	}
	for _, i := range []reason{byIntention, byDefault, byNoPermission} {
		m.allowed[i] = decisions.WithLabelValues("allow", i.label())
	}
	for i := range failures {
		m.errors[i] = errs.WithLabelValues(i.label())
	}
	return m, nil
}

func (m *metrics) count(v verdict) {
	if v.permission > 0 || v.reason == byPath {
		m.permissions.count(v)
	}
	if v.allowed {
		m.allowed[v.reason].Inc()
		return
	}
	m.denied[v.reason].Inc()
}

func (m *metrics) fail(f failure) { m.errors[f].Inc() }
