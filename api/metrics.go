package api

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count the questions by endpoint. Their labels are those of the table of routes.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	leafs    prometheus.GaugeFunc
	waits    prometheus.GaugeFunc
}

func (m *metrics) register(r prometheus.Registerer, s *Server) error {
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_api_requests_total",
		Help: "Requests of the HTTP API for applications, by endpoint and status code.",
	}, []string{"endpoint", "code"})
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "sallyport_api_request_duration_seconds",
		Help:    "How long requests of the HTTP API took that did not wait for a change, by endpoint.",
		Buckets: []float64{0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.1, 1},
	}, []string{"endpoint"})
	m.waits = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_api_waiting_requests",
		Help: "Requests of the HTTP API that wait for a change (blocking queries).",
	}, func() float64 { return float64(s.waits.used()) })
	m.leafs = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_api_leafs",
		Help: "Leaf certificates that are held for applications without a sidecar that asked by the HTTP API.",
	}, func() float64 {
		s.leafs.mu.Lock()
		defer s.leafs.mu.Unlock()
		return float64(len(s.leafs.all))
	})
	for rt := range s.routes.all() {
		rt.observed = observed{m.requests.WithLabelValues(rt.path, "200"), m.seconds.WithLabelValues(rt.path)}
	}
	if r == nil {
		return nil
	}
	return errors.Join(r.Register(m.requests), r.Register(m.seconds), r.Register(m.waits), r.Register(m.leafs))
}

// observed are the metrics of a route, looked up once.
type observed struct {
	ok      prometheus.Counter
	seconds prometheus.Observer
}

func (m *metrics) observe(q *question, code int, took time.Duration) {
	rt := q.route
	if code == 200 {
		rt.observed.ok.Inc()
	} else {
		m.requests.WithLabelValues(rt.path, strconv.Itoa(code)).Inc()
	}
	if q.index == 0 {
		rt.observed.seconds.Observe(took.Seconds())
	}
}
