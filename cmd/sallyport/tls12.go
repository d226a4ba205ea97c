package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/sidecar"
	"github.com/sallyport/sallyport/xds"
)

// tls12 counts, for each connected proxy, the inbound handshakes that were TLS 1.2, as its Envoy
// has counted them. Envoys whose administration socket is not where `sallyport envoy` puts it, or
// may not be read by this user, are left out: how many they had is not known.
func tls12(ctx context.Context, runtimeDir string, proxies []xds.ProxyStatus) map[string]uint64 {
	counts := map[string]uint64{}
	for _, p := range proxies {
		if socket, ok := sidecar.AdminSocket(runtimeDir, string(p.ID)); p.Connected && ok {
			if n, err := countTLS12(ctx, socket); err == nil {
				counts[string(p.ID)] = n
			}
		}
	}
	return counts
}

// countTLS12 asks the Envoy behind an administration socket.
func countTLS12(ctx context.Context, socket string) (uint64, error) {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	q := url.Values{"format": {"json"}, "filter": {`^listener\..*\.ssl\.versions\.TLSv1\.2$`}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://envoy/stats?"+q.Encode(), nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	var stats struct {
		Stats []struct {
			Name  string `json:"name"`
			Value uint64 `json:"value"`
		} `json:"stats"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&stats); err != nil {
		return 0, err
	}
	var n uint64
	for _, s := range stats.Stats {
		n += s.Value
	}
	return n, nil
}
