package xds

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
)

// syncState is how far a proxy's Envoy has come.
type syncState uint8

const (
	notConnected syncState = iota
	inSync
	updating   // it is being told something
	waits      // for something that it is to be told
	refuses    // something that it was told
	keepsLast  // its configuration cannot be made
	syncStates // how many there are
)

// String is the state as a metric spells it.
func (s syncState) String() string {
	return [syncStates]string{"not_connected", "in_sync", "updating", "waiting", "refusing", "failed"}[s]
}

// maxSyncSeries is how many proxies have a metric of their own.
const maxSyncSeries = 500

// syncCollector counts the proxies of the catalog by their state when it is asked.
type syncCollector struct {
	server *Server

	expected, states, proxies *prometheus.Desc
}

func newSyncCollector(s *Server) *syncCollector {
	return &syncCollector{
		server:   s,
		expected: prometheus.NewDesc("sallyport_xds_expected_proxies", "Proxies of the catalog: as many are connected if all run.", nil, nil),
		states: prometheus.NewDesc("sallyport_xds_proxies",
			"Proxies of the catalog by state: in_sync, updating, waiting (for something to tell them), refusing (something), failed (their configuration cannot be made), not_connected.", []string{"state"}, nil),
		proxies: prometheus.NewDesc("sallyport_xds_proxy_in_sync",
			"1 if the proxy's Envoy has all that it is to have, 0 if not. Of more than 500 proxies only those that do not, and of these 500.", []string{"proxy"}, nil),
	}
}

func (c *syncCollector) Describe(to chan<- *prometheus.Desc) {
	to <- c.expected
	to <- c.states
	to <- c.proxies
}

func (c *syncCollector) Collect(to chan<- prometheus.Metric) {
	view, ok := c.server.views.Load()
	if !ok {
		view = &catalog.View{}
	}
	var count [syncStates]int
	all := 0
	for range view.Proxies() {
		all++
	}
	series := 0
	for p := range view.Proxies() {
		state := c.server.stateOf(p)
		count[state]++
		if series == maxSyncSeries || all > maxSyncSeries && state == inSync {
			continue
		}
		series++
		value := 0.0
		if state == inSync {
			value = 1
		}
		to <- prometheus.MustNewConstMetric(c.proxies, prometheus.GaugeValue, value, string(p.ID))
	}
	to <- prometheus.MustNewConstMetric(c.expected, prometheus.GaugeValue, float64(all))
	for s, n := range count {
		to <- prometheus.MustNewConstMetric(c.states, prometheus.GaugeValue, float64(n), syncState(s).String())
	}
}

// stateOf is the worst state of a proxy's streams.
func (s *Server) stateOf(p *catalog.Proxy) (worst syncState) {
	for _, n := range s.sessionsOf(p.ID) {
		worst = max(worst, n.state())
	}
	return worst
}

// state is that of the session's Envoy.
func (s *session) state() syncState {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r := &s.report; {
	case r.failure != "":
		return keepsLast
	case s.target == nil || r.waiting != "":
		return waits
	default:
		for k := range kinds {
			if len(s.refused(k)) > 0 {
				return refuses
			}
		}
		switch {
		case r.inSync:
			return inSync
		case s.waitingFor() != "":
			return waits
		}
		return updating
	}
}
