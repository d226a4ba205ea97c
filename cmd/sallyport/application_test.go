package main

import (
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/xds"
)

// TestSilentApplication: of one that does not answer it is said where its port is written, which need not
// be where its sidecar is; and nothing any more when it answers.
func TestSilentApplication(t *testing.T) {
	t.Parallel()
	v := instances(map[string]string{"web": "web"})
	for p := range v.Proxies() {
		p.Origin, p.Inbound.LocalAddress, p.Inbound.LocalPort, p.Inbound.LocalOrigin = "web.hcl:5", "127.0.0.1", 8080, "web.hcl:3"
	}
	me := admin.Peer{UID: os.Geteuid()}
	proxies := []xds.ProxyStatus{leafed("web", time.Minute)}
	proxies[0].Origin = "web.hcl:5"
	var s applications
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	if err := s.note(v, me, admin.Application{ProxyID: "web-sidecar-proxy", Since: time.Now(), Failed: 1}, logger); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "addr=127.0.0.1:8080 origin=web.hcl:3") {
		t.Errorf("the log: %s", log.String())
	}
	remedy := func() (out string) {
		for _, f := range judge(admin.Status{Proxies: proxies, Applications: s.silent(proxies)}, time.Now()) {
			if f.Check == "application" {
				out = f.Remedy
			}
		}
		return out
	}
	if got := remedy(); got != "start the application, or correct the service's port at web.hcl:3" {
		t.Errorf("the remedy is %q", got)
	}
	if err := s.note(v, me, admin.Application{ProxyID: "web-sidecar-proxy", Answers: true}, logger); err != nil || remedy() != "" {
		t.Errorf("it answers again, and the remedy is %q: %v", remedy(), err)
	}
}
