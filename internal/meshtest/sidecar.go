package meshtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Sidecar is a running `sallyport envoy` and its Envoy.
type Sidecar struct {
	// Name is the service's.
	Name string
	*Process

	t       testing.TB
	version string // Envoy's
	admin   string // the path of Envoy's admin socket
	http    *http.Client
	// mayRefuse: this Envoy is expected to refuse something.
	mayRefuse bool
	checked   bool
}

// Sidecar starts the sidecar of a service that the catalog has and waits until its Envoy is ready.
// args go to `sallyport envoy`.
func (m *Mesh) Sidecar(service string, args ...string) *Sidecar {
	m.t.Helper()
	s := m.LaunchSidecar(service, args...)
	s.AwaitReady()
	return s
}

// Sidecars starts several sidecars at once and waits until all are ready.
func (m *Mesh) Sidecars(services ...string) []*Sidecar {
	m.t.Helper()
	var all []*Sidecar
	for _, s := range services {
		all = append(all, m.LaunchSidecar(s))
	}
	for _, s := range all {
		s.AwaitReady()
	}
	return all
}

// LaunchSidecar starts a sidecar without waiting for it. It waits itself for a service that was just added.
func (m *Mesh) LaunchSidecar(service string, args ...string) *Sidecar {
	m.t.Helper()
	admin := filepath.Join(m.dir, fmt.Sprintf("%s-%d.admin", service, len(m.sidecars)))
	cmd := m.command(slices.Concat([]string{"envoy", "--runtime-dir", m.Runtime, "--envoy-binary", m.envoy, "--sidecar-for", service, "--wait", "10s", "--admin-bind", "unix:" + admin}, args)...)
	p := Start(m.t, "sallyport envoy "+service, filepath.Join(m.dir, fmt.Sprintf("%s-%d.log", service, len(m.sidecars))), cmd)
	return m.Adopt(service, p, admin)
}

// RunSidecar runs a sidecar that is to end by itself.
func (m *Mesh) RunSidecar(service string, args ...string) Result {
	m.t.Helper()
	return m.Run(slices.Concat([]string{"envoy", "--envoy-binary", m.envoy, "--sidecar-for", service}, args)...)
}

// Adopt makes a sidecar of an Envoy that the test started itself, whose administration listens on
// admin: the path of a socket, or host:port.
func (m *Mesh) Adopt(service string, p *Process, admin string) *Sidecar {
	m.t.Helper()
	s := &Sidecar{Name: service, Process: p, t: m.t, version: m.config.Envoy, admin: admin}
	s.http = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			network := "tcp"
			if filepath.IsAbs(s.admin) {
				network = "unix"
			}
			return new(net.Dialer).DialContext(ctx, network, s.admin)
		},
	}}
	m.sidecars = append(m.sidecars, s)
	m.t.Cleanup(s.Check)
	return s
}

// AwaitReady waits until Envoy says that it is ready: all that it was told to listen on is served.
func (s *Sidecar) AwaitReady() {
	s.t.Helper()
	Await(s.t, s.Name+"'s Envoy ready", func() error {
		if s.Ended() {
			s.t.Fatalf("sallyport envoy %s ended: %v\n%s", s.Name, s.err, s.Log())
		}
		return s.Ready()
	})
}

// Ready is nil if Envoy is ready.
func (s *Sidecar) Ready() error {
	_, err := s.get("/ready")
	return err
}

func (s *Sidecar) get(path string) (string, error) {
	resp, err := s.http.Get("http://envoy" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s %.200s", path, resp.Status, body)
	}
	return string(body), nil
}

// Admin is what Envoy's admin interface answers to a GET of path.
func (s *Sidecar) Admin(path string) string {
	s.t.Helper()
	body, err := s.get(path)
	if err != nil {
		s.t.Fatalf("%s: %v", s.Name, err)
	}
	return body
}

// AdminSocket is the path of Envoy's admin socket.
func (s *Sidecar) AdminSocket() string { return s.admin }

// ConfigDump is all of Envoy's configuration, endpoints included, as JSON.
func (s *Sidecar) ConfigDump() string {
	s.t.Helper()
	return s.Admin("/config_dump?include_eds")
}

// Stats are Envoy's counters and gauges.
type Stats map[string]int64

// Stats reads the counters and gauges, those that never counted too.
func (s *Sidecar) Stats() Stats {
	s.t.Helper()
	stats, err := s.stats()
	if err != nil {
		s.t.Fatalf("%s: %v", s.Name, err)
	}
	return stats
}

func (s *Sidecar) stats() (Stats, error) {
	text, err := s.get("/stats")
	if err != nil {
		return nil, err
	}
	return parseStats(text), nil
}

func parseStats(text string) Stats {
	out := Stats{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.ParseInt(value, 10, 64); ok && err == nil {
			out[name] = n
		}
	}
	return out
}

// Sum adds the stats whose whole name matches the regular expression.
func (s Stats) Sum(expression string) int64 {
	re := regexp.MustCompile("^(?:" + expression + ")$")
	var n int64
	for name, v := range s {
		if re.MatchString(name) {
			n += v
		}
	}
	return n
}

// Decided is what ask gets through this sidecar once its Envoy has a decision. On a busy machine
// the control plane now and then does not answer an ext_authz question within the 250 ms that Envoy
// waits; that is an outage, in which nobody gets in, and no decision, so it is asked again, up to
// four times. tries is how often it was asked.
func (s *Sidecar) Decided(ask func() Answer) (a Answer, tries int) {
	s.t.Helper()
	for tries < 5 {
		tries++
		outages := s.Outages()
		a = ask()
		if a.Allowed() || s.Outages() == outages {
			break
		}
	}
	return a, tries
}

// Outages counts the ext_authz questions that nobody answered. It is -1 if Envoy does not say.
func (s *Sidecar) Outages() int64 {
	text, err := s.get(`/stats?filter=ext_authz.*error`)
	if err != nil {
		return -1
	}
	return parseStats(text).Sum(`.*`)
}

// Updates counts the responses that Envoy took, by type: "LDS", "CDS", "EDS", "RDS", "ECDS" and
// "SDS".
func (s Stats) Updates() map[string]int64 {
	return map[string]int64{
		"LDS":  s.Sum(`listener_manager\.lds\.update_success`),
		"CDS":  s.Sum(`cluster_manager\.cds\.update_success`),
		"EDS":  s.Sum(`cluster\..*\.update_success`) - s.Sum(`cluster\.sallyport\..*update_success`),
		"RDS":  s.Sum(`http\..*\.rds\..*\.update_success`),
		"ECDS": s.Sum(`extension_config_discovery\..*\.config_reload`) + s.Sum(`extension_config_discovery\..*\.update_success`),
		"SDS":  s.Sum(`(.*\.)?sds\..*\.update_success`) - s.Sum(`sds\.xds-token\.update_success`),
	}
}

// Modified counts the changes that could have cost connections: of listeners and filter chains, and
// of clusters.
func (s Stats) Modified() map[string]int64 {
	return map[string]int64{
		"listener_modified":         s["listener_manager.listener_modified"],
		"listener_added":            s["listener_manager.listener_added"],
		"listener_removed":          s["listener_manager.listener_removed"],
		"listener_in_place_updated": s["listener_manager.listener_in_place_updated"],
		"cluster_modified":          s["cluster_manager.cluster_modified"],
		"cluster_added":             s["cluster_manager.cluster_added"],
		"cluster_removed":           s["cluster_manager.cluster_removed"],
	}
}

// MayRefuse says that this Envoy is expected to refuse some of what it is told.
func (s *Sidecar) MayRefuse() { s.mayRefuse = true }

// gates are counters that have to be zero: Envoy refused, ignored or disliked something. By
// expression, and what is wrong if not.
var gates = []struct{ expression, wrong string }{
	{`.*\.update_rejected`, "refused an update"},
	{`server\.dynamic_unknown_fields`, "ignored fields that it does not know, over xDS"},
	{`server\.static_unknown_fields`, "ignored fields that it does not know, in its bootstrap"},
	{wip, "was told to use work in progress"},
	{`runtime\.deprecated_feature_use`, "was told to use deprecated fields"},
}

// wip counts uses of fields that an Envoy still calls work in progress. Envoy 1.36 says so of the
// network RBAC filter's matcher, which it evaluates as its successors do.
const wip = `server\.wip_protos`

// Check fails the test if Envoy has refused, ignored or deprecated anything, or if its dump holds a
// private key or a token. It runs at the end of the test by itself; a test that ends an Envoy
// before calls Close.
func (s *Sidecar) Check() {
	s.t.Helper()
	if s.checked {
		return
	}
	s.checked = true
	if s.Ended() {
		s.t.Errorf("%s's sidecar ended before the test: %v\n%s", s.Name, s.err, s.Tail(20))
		return
	}
	stats, err := s.stats()
	if err != nil {
		s.t.Errorf("%s's Envoy at the end of the test: %v", s.Name, err)
		return
	}
	for _, g := range gates {
		if s.mayRefuse && strings.HasSuffix(g.expression, "update_rejected") || g.expression == wip && s.version == "1.36.4" {
			continue
		}
		if n := stats.Sum(g.expression); n != 0 {
			s.t.Errorf("%s's Envoy %s: %d × %s", s.Name, g.wrong, n, g.expression)
		}
	}
	dump, err := s.get("/config_dump?include_eds")
	if err != nil {
		s.t.Errorf("%s's Envoy at the end of the test: %v", s.Name, err)
		return
	}
	if err := leak([]byte(dump)); err != nil {
		s.t.Errorf("config_dump of %s's Envoy: %v", s.Name, err)
	}
}

// Abandon leaves the Envoy out of the checks at the end of the test: for one that is not meant to
// become ready.
func (s *Sidecar) Abandon() *Sidecar {
	s.checked = true
	return s
}

// Close checks and ends the sidecar.
func (s *Sidecar) Close() {
	s.t.Helper()
	s.Check()
	s.Kill()
}

// Leaf is the leaf certificate that an Envoy serves with.
type Leaf struct {
	Serial  string
	URI     string
	Expires time.Time
}

// Leaf is the certificate that Envoy has loaded with its own service's SPIFFE ID.
func (s *Sidecar) Leaf() (Leaf, error) {
	text, err := s.get("/certs")
	if err != nil {
		return Leaf{}, err
	}
	var out struct {
		Certificates []struct {
			Chain []struct {
				Serial  string    `json:"serial_number"`
				Expires time.Time `json:"expiration_time"`
				SANs    []struct {
					URI string `json:"uri"`
				} `json:"subject_alt_names"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return Leaf{}, err
	}
	for _, c := range out.Certificates {
		for _, l := range c.Chain {
			if len(l.SANs) == 1 && strings.HasSuffix(l.SANs[0].URI, "/svc/"+s.Name) {
				return Leaf{Serial: l.Serial, URI: l.SANs[0].URI, Expires: l.Expires}, nil
			}
		}
	}
	return Leaf{}, errors.New("no leaf of " + s.Name + " in /certs")
}
