package remote

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts the questions of all Clients that have it. Nil counts nothing.
type Metrics struct {
	questions *prometheus.CounterVec
	failed    *prometheus.CounterVec
}

// NewMetrics registers the metrics. The error is that they cannot be.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		questions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_remote_questions_total",
			Help: "Questions to servers outside of the mesh, by what became of them: answered, unavailable, denied, invalid.",
		}, []string{"server", "outcome"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_remote_failed_attempts_total",
			Help: "Attempts to ask a server outside of the mesh that found it unavailable.",
		}, []string{"server"}),
	}
	for _, c := range []prometheus.Collector{m.questions, m.failed} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of servers outside: %w", err)
		}
	}
	return m, nil
}

// prepare has the counters of a server begin at zero.
func (m *Metrics) prepare(server string) {
	if m == nil {
		return
	}
	for _, outcome := range []string{"answered", Unavailable.String(), Denied.String(), Invalid.String()} {
		m.questions.WithLabelValues(server, outcome)
	}
	m.failed.WithLabelValues(server)
}

func (m *Metrics) count(server, outcome string) {
	if m != nil {
		m.questions.WithLabelValues(server, outcome).Inc()
	}
}

func (m *Metrics) retried(server string) {
	if m != nil {
		m.failed.WithLabelValues(server).Inc()
	}
}
