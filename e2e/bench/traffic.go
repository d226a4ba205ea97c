package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// The load through sidecars, as in the figures for Consul that the targets come from, in rounds that all take turns in.
const (
	trafficRate   = 500
	trafficRounds = 5
	trafficRound  = 2 * time.Second
	starts        = 5
)

// pair is what traffic goes through: an application, the sidecars of two services in front of it, http and tcp, and the sidecar of the
// client.
type pair struct {
	dir, envoy string
	ports      meshtest.Ports
	app        int
	// sallyport's and the other layout's listeners in the client's sidecar.
	http, tcp, consulHTTP, consulTCP int
	processes                        []*process
}

// measureTraffic measures on real Envoys how soon two sidecars serve, and what they add to a request, beside Consul's layout of filters.
func measureTraffic(ctx context.Context, o options, dir string) (rows []row, err error) {
	if o.envoy == "" {
		return nil, errors.New("traffic through sidecars is not measured without -envoy")
	}
	p := &pair{dir: dir, envoy: o.envoy}
	defer p.stop()
	app, err := meshtest.ServeHTTP("127.0.0.1:0", "", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") }))
	if err != nil {
		return nil, err
	}
	defer app.Close()
	p.app = app.Port()
	control, err := p.serve(ctx, o)
	if err != nil {
		return nil, err
	}
	defer control.stop()
	var took []time.Duration
	for n := range starts {
		if n > 0 {
			p.stop()
		}
		d, err := p.start(ctx, o, p.http, "api", "web")
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	o.line(benchmarkLine("Start", nanos(took[len(took)/2], "ns/op")))
	rows = append(rows, row{
		work:   "`sallyport envoy` started → first 200 through two sidecars",
		value:  millis(took[len(took)/2]) + " ms",
		beside: fmt.Sprintf("median of %d, most %s ms", len(took), millis(took[len(took)-1])),
	})
	if _, err := p.start(ctx, o, p.tcp, "tapi"); err != nil {
		return rows, err
	}
	if err := p.startConsulLayout(ctx); err != nil {
		return rows, err
	}
	more, err := p.latencies(ctx, o)
	return append(rows, more...), err
}

func (p *pair) stop() {
	for _, c := range p.processes {
		c.stop()
	}
	p.processes = nil
}

// serve starts the control plane.
func (p *pair) serve(ctx context.Context, o options) (*process, error) {
	port := func() int {
		n, err := p.ports.Next()
		if err != nil {
			panic(err) // ten thousand ports are in use
		}
		return n
	}
	p.http, p.tcp = port(), port()
	definitions := filepath.Join(p.dir, "catalog")
	if err := os.Mkdir(definitions, 0o700); err != nil {
		return nil, err
	}
	service := func(name string, port int, upstreams ...upstream) definition {
		d := definition{Name: name, ID: name, Address: "127.0.0.1", Port: p.app, Connect: &connect{SidecarService: sidecarService{Port: port}}}
		if len(upstreams) > 0 {
			d.Connect.SidecarService.Proxy = &proxy{Upstreams: upstreams}
		}
		return d
	}
	web := service("web", port(), upstream{"api", "127.0.0.1", p.http}, upstream{"tapi", "127.0.0.1", p.tcp})
	allow := []source{{"web", "allow"}}
	err := errors.Join(
		writeJSON(filepath.Join(definitions, "services.json"), map[string]any{"Services": []definition{web, service("api", port()), service("tapi", port())}}),
		writeJSON(filepath.Join(definitions, "entries.json"), map[string]any{"config_entries": map[string]any{"bootstrap": []entry{
			{Kind: "service-defaults", Name: "api", Protocol: "http"},
			{Kind: "service-intentions", Name: "api", Sources: allow},
			{Kind: "service-intentions", Name: "tapi", Sources: allow},
		}}}),
	)
	if err != nil {
		return nil, err
	}
	control, _, err := serve(ctx, o.sallyport, p.dir, load{sidecars: 3}, nil, "--catalog", definitions, "--trust-domain", benchDomain)
	return control, err
}

// start starts sidecars of sallyport and returns how long it took from there to the first answer through the listener at port.
func (p *pair) start(ctx context.Context, o options, port int, services ...string) (time.Duration, error) {
	begin := time.Now()
	for _, s := range services {
		c, err := launch("sallyport envoy", filepath.Join(p.dir, s+".log"), meshtest.Environ(), o.sallyport, "envoy", "--sidecar-for", s,
			"--runtime-dir", filepath.Join(p.dir, "run"), "--envoy-binary", p.envoy, "--", "--concurrency", "1", "--log-level", "warning")
		if err != nil {
			return 0, err
		}
		p.processes = append(p.processes, c)
	}
	err := p.answers(ctx, port)
	return time.Since(begin), err
}

// answers waits until the application answers at a port.
func (p *pair) answers(ctx context.Context, port int) error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	last := p.processes[len(p.processes)-1]
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := get(ctx, &client, port)
		switch {
		case err == nil:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%w; the log of the last one ends\n%s", err, last.Tail(15))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, client *http.Client, port int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(port)+"/", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("port %d: %s", port, resp.Status)
	}
	return nil
}

// latencies compares what the sidecars add.
func (p *pair) latencies(ctx context.Context, o options) (rows []row, err error) {
	ways := []struct {
		name string
		port int
		took []time.Duration
	}{
		{"direct", p.app, nil},
		{"tcp, Consul's layout", p.consulTCP, nil},
		{"tcp", p.tcp, nil},
		{"http, Consul's layout", p.consulHTTP, nil},
		{"http", p.http, nil},
	}
	for n := range trafficRounds + 1 {
		for i := range ways {
			w := &ways[i]
			t := &http.Transport{MaxIdleConnsPerHost: 16, MaxConnsPerHost: 16}
			client := &http.Client{Timeout: 5 * time.Second, Transport: t}
			d, err := openLoop(trafficRate, trafficRound, func() error { return get(ctx, client, w.port) })
			t.CloseIdleConnections()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			if n > 0 { // the first round warms
				w.took = append(w.took, d...)
			}
		}
	}
	for i := range ways {
		slices.Sort(ways[i].took)
	}
	added := func(i, at int) time.Duration { return percentile(ways[i].took, at) - percentile(ways[0].took, at) }
	for i := 2; i < len(ways); i += 2 {
		o.line(benchmarkLine("Sidecars/by=sallyport/protocol="+ways[i].name, nanos(percentile(ways[i].took, 50), "ns/op"), nanos(percentile(ways[i].took, 99), "p99-ns/op")),
			benchmarkLine("Sidecars/by=consul/protocol="+ways[i].name, nanos(percentile(ways[i-1].took, 50), "ns/op"), nanos(percentile(ways[i-1].took, 99), "p99-ns/op")))
		rows = append(rows, row{
			work:  fmt.Sprintf("two sidecars, %s, %d rps: added latency", ways[i].name, trafficRate),
			value: fmt.Sprintf("p50 %s, p99 %s ms", millis(added(i, 50)), millis(added(i, 99))),
			beside: fmt.Sprintf("Consul's layout of filters: p50 %s, p99 %s ms",
				millis(added(i-1, 50)), millis(added(i-1, 99))),
		})
	}
	return rows, nil
}
