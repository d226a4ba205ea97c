package files

import "github.com/prometheus/client_golang/prometheus"

// metrics say how fresh the catalog is.
type metrics struct {
	success, problems, notTaken prometheus.Gauge
	loads                       *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (metrics, error) {
	m := metrics{
		success: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_catalog_last_success_timestamp_seconds",
			Help: "When the catalog's directory was last looked at and all of it found valid, changed or not, in seconds since 1970; 0: never.",
		}),
		problems: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_catalog_problems",
			Help: "Mistakes for which something of the catalog's directory is not taken; 0: all of it is.",
		}),
		notTaken: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_catalog_files_not_taken",
			Help: "Files of the catalog that cannot be taken as they are; what they said last stays in force.",
		}),
		loads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_catalog_loads_total",
			Help: "How often the catalog's directory was read, by result: ok, part (there were mistakes, and the rest was taken), refused.",
		}, []string{"result"}),
	}
	for _, result := range []string{"ok", "part", "refused"} {
		m.loads.WithLabelValues(result)
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.success, m.problems, m.notTaken, m.loads} {
		if err := r.Register(c); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m metrics) loaded(s Status, o outcome) {
	m.problems.Set(float64(len(o.problems)))
	switch {
	case len(o.problems) == 0:
		m.loads.WithLabelValues("ok").Inc()
		m.fresh(s)
	case o.inForce:
		m.loads.WithLabelValues("part").Inc()
	default:
		m.loads.WithLabelValues("refused").Inc()
	}
}

func (m metrics) fresh(s Status) { m.success.Set(float64(s.LastSuccess.UnixNano()) / 1e9) }
