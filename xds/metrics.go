package xds

import "github.com/prometheus/client_golang/prometheus"

// metrics are the server's. Their labels are from closed sets.
type metrics struct {
	connected       prometheus.Gauge
	pushes          *prometheus.CounterVec
	pushBytes       *prometheus.CounterVec
	changeToACK     prometheus.Histogram
	change          prometheus.Gauge
	nacks           *prometheus.CounterVec
	requestsRefused *prometheus.CounterVec
	streamsRejected *prometheus.CounterVec
	buildErrors     prometheus.Counter
	renames         prometheus.Counter
}

// newMetrics makes the metrics and registers them, unless r is nil. All label values exist from the
// start, so that a rate over them has a zero to begin with.
func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_xds_connected_proxies", Help: "Proxies with at least one open xDS stream.",
		}),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_xds_pushes_total", Help: "Responses sent to Envoys, by type of resource.",
		}, []string{"type"}),
		pushBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_xds_push_bytes_total", Help: "Bytes of the responses sent to Envoys, by type of resource.",
		}, []string{"type"}),
		changeToACK: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "sallyport_xds_change_to_ack_seconds",
			Help:    "Time from a change being seen until an Envoy has accepted all that follows from it.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60},
		}),
		change: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_xds_change", Help: "Number of the newest change of the catalog that Envoys are told of.",
		}),
		nacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_xds_nacks_total", Help: "Responses that Envoys refused, by type of resource.",
		}, []string{"type"}),
		requestsRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_xds_requests_refused_total", Help: "Requests, or parts of them, that got no answer: unknown types, too many or too long names, wildcards where none are allowed.",
		}, []string{"reason"}),
		streamsRejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_xds_streams_rejected_total", Help: "Streams that the control plane refused or ended, and calls (reason call) and connections (reason connection) that it refused.",
		}, []string{"reason"}),
		buildErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_xds_build_errors_total", Help: "Configurations that could not be made; the proxy keeps its last one, but for who may connect.",
		}),
		renames: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_xds_revocations_total", Help: "Times that access to a service was taken away and its live connections ended.",
		}),
	}
	for k := range kinds {
		m.pushes.WithLabelValues(k.String())
		m.pushBytes.WithLabelValues(k.String())
		m.nacks.WithLabelValues(k.String())
	}
	for _, reason := range []string{refusedType, refusedNames, refusedWildcard} {
		m.requestsRefused.WithLabelValues(reason)
	}
	for _, reason := range []string{rejectedDenied, rejectedNode, rejectedStreams, rejectedSilent, rejectedStalled, rejectedGone, rejectedAgent, rejectedVariant, rejectedCall, rejectedConnection} {
		m.streamsRejected.WithLabelValues(reason)
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.connected, m.pushes, m.pushBytes, m.changeToACK, m.change, m.nacks, m.requestsRefused, m.streamsRejected, m.buildErrors, m.renames} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
