package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// profiler takes profiles of a sallyport over its admin socket. A nil one takes none.
type profiler struct {
	client http.Client
	dir    string
}

func newProfiler(dir, socket string) *profiler {
	if dir == "" {
		return nil
	}
	dialer := net.Dialer{}
	return &profiler{dir: dir, client: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}}
}

// phase profiles what happens until the function that it returns is called; that writes the profiles.
func (p *profiler) phase(ctx context.Context, l load, name string) (done func() error) {
	if p == nil {
		return func() error { return nil }
	}
	const seconds = 3
	failed := make(chan error, 1)
	base := l.slug() + "-" + strings.ReplaceAll(strings.ReplaceAll(name, ",", ""), " ", "-")
	go func() { failed <- p.take(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds), base+".cpu") }()
	time.Sleep(200 * time.Millisecond) // until the profiler runs
	return func() error {
		if err := <-failed; err != nil {
			return err
		}
		if err := p.take(ctx, "/debug/pprof/heap", base+".heap"); err != nil {
			return err
		}
		if err := p.take(ctx, "/metrics", base+".metrics"); err != nil {
			return err
		}
		return p.take(ctx, "/debug/pprof/goroutine", base+".goroutine")
	}
}

func (p *profiler) take(ctx context.Context, path, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sallyport"+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.200s", path, resp.Status, b)
	}
	return os.WriteFile(filepath.Join(p.dir, file), b, 0o600)
}
