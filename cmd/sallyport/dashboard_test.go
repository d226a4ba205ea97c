package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// rows are the parts of the dashboard: the first whose prefix a metric has is its row.
var rows = []struct{ title, prefix string }{
	{"Sidecars", "sallyport_xds_"},
	{"Applications", "sallyport_workload_"},
	{"Certificates", "sallyport_leaf_"},
	{"Certificates", "sallyport_sds_"},
	{"Certificates", "sallyport_ca_"},
	{"Certificates", "sallyport_revoked"},
	{"Certificates", "sallyport_remote_"},
	{"Certificates", "sallyport_trust_domain_"},
	{"Certificates", "sallyport_jwks_"},
	{"What was refused", "sallyport_refusals_"},
	{"What was refused", "sallyport_authz_"},
	{"Applications without a sidecar", "sallyport_api_"},
	{"Catalog", "sallyport_catalog_"},
	{"Consul", "sallyport_consul_"},
	{"Process", "sallyport_build_"},
	{"Process", "go_"},
	{"Process", "process_"},
}

type panel struct {
	ID          int            `json:"id"`
	Type        string         `json:"type"`
	Title       string         `json:"title"`
	Description string         `json:"description,omitempty"`
	GridPos     map[string]int `json:"gridPos"`
	Collapsed   *bool          `json:"collapsed,omitempty"`
	Panels      []panel        `json:"panels,omitempty"`
	Datasource  any            `json:"datasource,omitempty"`
	FieldConfig any            `json:"fieldConfig,omitempty"`
	Options     any            `json:"options,omitempty"`
	Targets     []target       `json:"targets,omitempty"`
}

type target struct {
	RefID        string `json:"refId"`
	Expr         string `json:"expr"`
	LegendFormat string `json:"legendFormat"`
	Datasource   any    `json:"datasource"`
}

// datasource is whichever Prometheus the dashboard is opened with.
var datasource = map[string]string{"type": "prometheus", "uid": "${datasource}"}

// dashboard is a Grafana dashboard with a panel for each metric.
func dashboard(t *testing.T) []byte {
	t.Helper()
	all := registeredMetrics(t)
	for name, m := range map[string]*metric{
		"go_goroutines":                 {kind: "gauge", help: "Goroutines of the control plane."},
		"process_cpu_seconds_total":     {kind: "counter", help: "Processor time of the control plane."},
		"process_resident_memory_bytes": {kind: "gauge", help: "Memory of the control plane."},
	} {
		m.name = name
		all[name] = m
	}
	var panels []panel
	y := 0
	for i, row := range rows {
		if i > 0 && rows[i-1].title == row.title {
			continue
		}
		var of []*metric
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if title := rowOf(name); title == row.title {
				of = append(of, all[name])
			} else if title == "" {
				t.Fatalf("%s belongs to no row of the dashboard", name)
			}
		}
		open := false
		panels = append(panels, panel{ID: len(panels) + 1, Type: "row", Title: row.title, Collapsed: &open, GridPos: map[string]int{"x": 0, "y": y, "w": 24, "h": 1}})
		y++
		for n, m := range of {
			p := panelOf(m)
			p.ID, p.GridPos = len(panels)+1, map[string]int{"x": n % 3 * 8, "y": y + n/3*7, "w": 8, "h": 7}
			panels = append(panels, p)
		}
		y += (len(of) + 2) / 3 * 7
	}
	out, err := json.MarshalIndent(map[string]any{
		"title": "sallyport", "uid": "sallyport", "tags": []string{"sallyport"}, "schemaVersion": 39, "editable": true, "graphTooltip": 1,
		"description": "Control planes of sallyport: a panel for each metric. Made by `make generate`.",
		"time":        map[string]string{"from": "now-6h", "to": "now"}, "refresh": "1m",
		"templating": map[string]any{"list": []any{
			map[string]any{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
			map[string]any{
				"name": "instance", "label": "control plane", "type": "query", "datasource": datasource, "refresh": 2, "multi": true, "includeAll": true,
				"query": map[string]string{"query": "label_values(sallyport_build_info, instance)", "refId": "instance"}, "current": map[string]any{"text": []string{"All"}, "value": []string{"$__all"}},
			},
		}},
		"panels": panels,
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func rowOf(name string) string {
	for _, r := range rows {
		if strings.HasPrefix(name, r.prefix) {
			return r.title
		}
	}
	return ""
}

// panelOf is how a metric is shown: by the kind and the unit that its name says it has.
func panelOf(m *metric) panel {
	labels := slices.Sorted(maps.Keys(m.labels))
	by := strings.Join(append([]string{"instance"}, labels...), ", ")
	legend := "{{" + strings.ReplaceAll(by, ", ", "}} {{") + "}}"
	of := m.name + `{instance=~"$instance"}`
	expr, unit, title := of, "short", strings.TrimPrefix(strings.TrimPrefix(m.name, "sallyport_"), "xds_")
	switch {
	case m.kind == "histogram":
		var targets []target
		for i, q := range []string{"0.5", "0.99"} {
			targets = append(targets, target{
				RefID: string(rune('A' + i)), LegendFormat: "{{instance}} " + q, Datasource: datasource,
				Expr: fmt.Sprintf(`histogram_quantile(%s, sum by (instance, le) (rate(%s_bucket{instance=~"$instance"}[$__rate_interval])))`, q, m.name),
			})
		}
		return graph(title+" (quantiles)", m.help, "s", targets)
	case strings.HasSuffix(m.name, "_timestamp_seconds") && strings.Contains(m.name, "_last_"):
		expr, unit, title = "time() - "+of, "s", strings.TrimSuffix(title, "_timestamp_seconds")+" ago"
	case strings.HasSuffix(m.name, "_timestamp_seconds"):
		expr, unit, title = of+" - time()", "s", strings.TrimSuffix(title, "_timestamp_seconds")+" in"
	case strings.HasSuffix(m.name, "_cpu_seconds_total"):
		expr, unit, title = fmt.Sprintf("rate(%s[$__rate_interval])", of), "percentunit", "processor time"
	case m.kind == "counter":
		expr, unit, title = fmt.Sprintf("sum by (%s) (increase(%s[$__rate_interval]))", by, of), "short", strings.TrimSuffix(title, "_total")
		if strings.HasSuffix(title, "_bytes") {
			unit = "bytes"
		}
	case strings.HasSuffix(m.name, "_seconds"):
		unit = "s"
	case strings.HasSuffix(m.name, "_bytes"):
		unit = "bytes"
	case m.name == "sallyport_xds_proxy_in_sync":
		expr, title = of+" == 0", "proxies not in sync"
	}
	return graph(strings.ReplaceAll(title, "_", " "), m.help, unit, []target{{RefID: "A", Expr: expr, LegendFormat: legend, Datasource: datasource}})
}

func graph(title, help, unit string, targets []target) panel {
	return panel{
		Type: "timeseries", Title: title, Description: help, Datasource: datasource, Targets: targets,
		FieldConfig: map[string]any{"defaults": map[string]any{"unit": unit, "custom": map[string]any{"fillOpacity": 10, "showPoints": "never"}}, "overrides": []any{}},
		Options:     map[string]any{"legend": map[string]any{"displayMode": "list", "placement": "bottom", "showLegend": true}, "tooltip": map[string]any{"mode": "multi", "sort": "desc"}},
	}
}

// TestDashboard: the dashboard has each metric in one panel, no two panels of it overlap, and all are told apart.
func TestDashboard(t *testing.T) {
	var d struct {
		Panels []panel `json:"panels"`
	}
	if err := json.Unmarshal(dashboard(t), &d); err != nil {
		t.Fatal(err)
	}
	shown, ids, taken := map[string]int{}, map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the ID %d", p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos["x"]; x < p.GridPos["x"]+p.GridPos["w"]; x++ {
			for y := p.GridPos["y"]; y < p.GridPos["y"]+p.GridPos["h"]; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for name := range registeredMetrics(t) {
			if p.Type != "row" && strings.Contains(p.Targets[0].Expr, name+"{") || p.Type != "row" && strings.Contains(p.Targets[0].Expr, name+"_bucket{") {
				shown[name]++
			}
		}
	}
	for name := range registeredMetrics(t) {
		if shown[name] != 1 {
			t.Errorf("%s is in %d panels, want one", name, shown[name])
		}
	}
}
