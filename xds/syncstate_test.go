package xds

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/catalog"
)

// syncMetrics are the states of the mesh's proxies that are not zero, and the series of proxies.
func syncMetrics(t *testing.T, m *mesh) (states map[string]float64, series map[string]float64) {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	states, series = map[string]float64{}, map[string]float64{}
	for _, f := range families {
		for _, s := range f.GetMetric() {
			switch v := s.GetGauge().GetValue(); f.GetName() {
			case "sallyport_xds_proxies":
				if v != 0 {
					states[s.GetLabel()[0].GetValue()] = v
				}
			case "sallyport_xds_proxy_in_sync":
				series[s.GetLabel()[0].GetValue()] = v
			}
		}
	}
	return states, series
}

func TestSyncMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		twoServices(m)
		check := func(web string, inSync float64) {
			t.Helper()
			synctest.Wait()
			want := map[string]float64{web: 1}
			want["not_connected"]++
			states, series := syncMetrics(t, m)
			if fmt.Sprint(states) != fmt.Sprint(want) || len(series) != 2 || series[string(proxyID("web"))] != inSync {
				t.Errorf("states %v, proxies in sync %v, want %v and %v for web", states, series, want, inSync)
			}
			if n := metric(t, m, "sallyport_xds_expected_proxies", ""); n != 2 {
				t.Errorf("%v proxies expected, want 2", n)
			}
		}
		check("not_connected", 0)
		c := m.stream("web")
		c.subscribe(clusters)
		c.accept("cluster " + apiSNI + ",local_app")
		check("updating", 0)
		c.subscribe(listeners)
		c.acceptAll()
		c.silence()
		check("in_sync", 1)
		m.contents.Proxies[0].Upstreams[0].BalanceConnections = true
		m.publish()
		c.refuse("listener api:127.0.0.1:9000", "no")
		check("refusing", 0)
		c.s.Close()
		check("not_connected", 0)
	})
}

// TestSyncMetricsAreBounded: of many proxies those have a metric that are not in sync, and not all of
// these.
func TestSyncMetricsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		for n := range 700 {
			m.service(fmt.Sprintf("s%03d", n), catalog.TCP)
		}
		m.publish()
		c := m.stream("s000")
		c.subscribe(clusters)
		c.subscribe(listeners)
		c.acceptAll()
		c.silence()
		synctest.Wait()
		states, series := syncMetrics(t, m)
		_, first := series[string(proxyID("s000"))]
		if states["in_sync"] != 1 || states["not_connected"] != 699 || len(series) != maxSyncSeries || first {
			t.Errorf("states %v, %d series, that of the one in sync among them: %v", states, len(series), first)
		}
	})
}
