package observe

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
)

// reason is why a connection or request was refused. The set is closed, as reasons are labels of a
// metric.
type reason uint8

const (
	uncounted reason = iota // not refused, or by ext_authz, which counts for itself
	handshake
	rules
	revoked
	reasons // how many there are
)

// refusals count by service. As a collector they export the services of the newest View's proxies,
// from zero on, and no others: reports cannot create labels.
type refusals struct {
	views *latest.Value[*catalog.View]
	mu    sync.Mutex
	by    map[identity.Name]*[reasons]uint64
}

func (r *refusals) add(service identity.Name, n [reasons]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.by[service]
	if c == nil {
		c = new([reasons]uint64)
		r.by[service] = c
	}
	for i := handshake; i < reasons; i++ {
		c[i] += n[i]
	}
}

// desc describes the one metric.
func desc() *prometheus.Desc {
	return prometheus.NewDesc("sallyport_refusals_total",
		"Connections and requests that the Envoys of a service refused by themselves and reported, by reason: handshake (no certificate of the mesh, or one that may not), rules (of an intention), revoked (the certificate or the identity is).",
		[]string{"destination", "reason"}, nil)
}

// Describe implements prometheus.Collector.
func (r *refusals) Describe(out chan<- *prometheus.Desc) { out <- desc() }

// Collect implements prometheus.Collector. Services that have left the catalog are dropped.
func (r *refusals) Collect(out chan<- prometheus.Metric) {
	view, ok := r.views.Load()
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now, d := map[identity.Name]*[reasons]uint64{}, desc()
	for p := range view.Proxies() {
		if now[p.Service] != nil {
			continue
		}
		c := r.by[p.Service]
		if c == nil {
			c = new([reasons]uint64)
		}
		now[p.Service] = c
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(c[handshake]), p.Service.String(), "handshake")
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(c[rules]), p.Service.String(), "rules")
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(c[revoked]), p.Service.String(), "revoked")
	}
	r.by = now
}
