package consul

import (
	"errors"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what is asked.
type metrics struct{ queries *prometheus.CounterVec }

func newMetrics(r prometheus.Registerer, staleness, queries func() float64) (*metrics, error) {
	m := &metrics{queries: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_consul_queries_total",
		Help: "Queries that the Consul agent was asked, by result: ok, denied, error, unreachable or garbled.",
	}, []string{"result"})}
	for _, v := range []string{"ok", "denied", "error", "unreachable", "garbled"} {
		m.queries.WithLabelValues(v)
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(r.Register(m.queries),
		r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_consul_staleness_seconds",
			Help: "For how long something that is served could not be read again from Consul; 0: everything is as Consul has it.",
		}, staleness)),
		r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_consul_watches",
			Help: "Things of Consul that are watched: services, destinations, chains and what holds for all.",
		}, queries)))
}

func (m *metrics) query(err error) {
	result := "error" // any other status but 200
	switch {
	case err == nil:
		result = "ok"
	case hasStatus(err, http.StatusForbidden):
		result = "denied"
	case errors.Is(err, errUnreachable):
		result = "unreachable"
	case errors.Is(err, errGarbled):
		result = "garbled"
	}
	m.queries.WithLabelValues(result).Inc()
}
