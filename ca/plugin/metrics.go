package plugin

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts the questions of all plug-ins. Nil counts nothing.
type Metrics struct {
	questions *prometheus.CounterVec
}

// NewMetrics registers the metrics. The error is that they cannot be.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_ca_plugin_questions_total",
		Help: "Questions to plug-ins, by what became of them: answered, pending, unavailable, denied, invalid, or private_key: one was in the answer, which was refused.",
	}, []string{"provider", "outcome"})}
	if err := r.Register(m.questions); err != nil {
		return nil, fmt.Errorf("metrics of plug-ins: %w", err)
	}
	return m, nil
}

// prepare has the counters of a plug-in begin at zero.
func (m *Metrics) prepare(provider string) {
	if m == nil {
		return
	}
	for _, outcome := range []string{"answered", "pending", "unavailable", "denied", "invalid", "private_key"} {
		m.questions.WithLabelValues(provider, outcome)
	}
}

func (m *Metrics) count(provider, outcome string) {
	if m != nil {
		m.questions.WithLabelValues(provider, outcome).Inc()
	}
}
