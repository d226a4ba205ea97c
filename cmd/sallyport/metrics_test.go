package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// metric is one of sallyport's own as a running control plane registers it.
type metric struct {
	name, kind, help string
	labels           map[string][]string
	modes            []string // "files", "Consul"
}

// registeredMetrics opens a control plane of each kind and looks at what it registered. All values
// of a label are there from the start.
func registeredMetrics(t *testing.T) map[string]*metric {
	t.Helper()
	out := map[string]*metric{}
	for mode, cfg := range map[string]serveConfig{
		"files": {
			Catalog: t.TempDir(), Datacenter: "dc1", DefaultIntentionPolicy: "deny", LeafTTL: time.Hour, TrustDomain: "mesh.example",
			CAProviders: map[string]any{"corp": map[string]any{"provider": "plugin", "config": map[string]any{"url": "unix:///run/corp.sock"}}},
		},
		// Nobody is asked before it runs.
		"Consul": {Consul: true, HTTPAddr: "127.0.0.1:1"},
	} {
		cfg.Data, cfg.IntentionEnforcement, cfg.TrustDomains = t.TempDir(), "rbac", otherTrustDomain(t)
		p, err := open(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		p.store.Publish(catalog.Contents{Proxies: []*catalog.Proxy{{ID: "each proxy of the catalog, 500 at most", Service: identity.NewName("each service of the catalog")}}})
		p.tokenSigners.Want([]catalog.KeySource{{URI: "each address of a JSONWebKeySet"}})
		families, err := p.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.close(); err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), "sallyport_") {
				m := out[f.GetName()]
				if m == nil {
					m = &metric{name: f.GetName(), kind: strings.ToLower(f.GetType().String()), help: f.GetHelp(), labels: map[string][]string{}}
					out[m.name] = m
				}
				for l, values := range labels(f) { // of both modes
					m.labels[l] = slices.Compact(slices.Sorted(slices.Values(append(m.labels[l], values...))))
				}
				m.modes = append(m.modes, mode)
			}
		}
	}
	return out
}

func labels(f *dto.MetricFamily) map[string][]string {
	if f.GetName() == "sallyport_build_info" {
		return map[string][]string{"version": {"as `sallyport version` says it"}, "commit": {"in full"}, "go_version": {"of the build"}}
	}
	out := map[string][]string{}
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "trust_domain" {
				out[l.GetName()] = []string{"each of --trust-domains"}
			} else if !slices.Contains(out[l.GetName()], l.GetValue()) {
				out[l.GetName()] = append(out[l.GetName()], l.GetValue())
			}
		}
	}
	return out
}

func metricsPage(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(generated + `
# Metrics

What a control plane says at ` + "`/metrics`" + ` of ` + "`--metrics-bind`" + ` and of its admin socket. Every value that a label can have is there from the start, at zero, so
that a rise from the first one on is seen. Beside these there are ` + "`go_*` and `process_*`" + `, which the Prometheus client makes (goroutines, memory, CPU, file
descriptors). What to do with them is in [watching.md](../guides/watching.md).

| metric | type | labels | with | says |
|---|---|---|---|---|
`)
	all := registeredMetrics(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m := all[name]
		var ls []string
		for _, l := range slices.Sorted(maps.Keys(m.labels)) {
			slices.Sort(m.labels[l])
			ls = append(ls, fmt.Sprintf("`%s`: %s", l, strings.Join(m.labels[l], ", ")))
		}
		with := "files, Consul"
		if len(m.modes) == 1 {
			with = m.modes[0]
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", m.name, m.kind, strings.Join(ls, "; "), with, m.help)
	}
	return b.Bytes()
}

// TestMetricsAreExplained: what is registered and cannot be gathered (a vector without values)
// would be missing from the reference.
func TestMetricsAreExplained(t *testing.T) {
	all := registeredMetrics(t)
	for _, m := range all {
		if m.help == "" || !strings.HasSuffix(m.help, ".") {
			t.Errorf("%s: help %q: a sentence is wanted", m.name, m.help)
		}
	}
	p, err := open(serveConfig{Catalog: t.TempDir(), Data: t.TempDir(), Datacenter: "dc1", DefaultIntentionPolicy: "deny", IntentionEnforcement: "rbac", LeafTTL: time.Hour}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	described := make(chan *prometheus.Desc, 256)
	p.metrics.Describe(described)
	close(described)
	for d := range described {
		_, name, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, _ = strings.Cut(name, `"`)
		if strings.HasPrefix(name, "sallyport_") && all[name] == nil {
			t.Errorf("%s is registered and has no value: give its labels theirs when it is made", name)
		}
	}
}
