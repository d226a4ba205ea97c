package meshtest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/testca"
)

// Control is a load that knows nothing of sallyport: its requests go the way of a mesh's, from one
// Envoy to another by mutual TLS, but both have a static configuration that nobody changes. What
// fails here, this machine fails.
type Control struct {
	load      *Load
	processes []*Process
	servers   []*Server
	dir       string
}

// controlLoad is small: it is there all the while, beside what is tested.
var controlLoad = LoadConfig{KeepAlive: 20, Fresh: 10, Held: 2, Dialled: 10}

// the control of this test process; nil until a test needs one.
var (
	control      *Control
	controlError error
	controlOnce  sync.Once
)

// StartControl starts the control of this test process, once. The test fails if that is not
// possible. StopControl ends it.
func StartControl(t testing.TB) {
	t.Helper()
	controlOnce.Do(func() { control, controlError = newControl(t) })
	if controlError != nil {
		t.Fatalf("control load: %v", controlError)
	}
}

// StopControl ends the control load, if there is one, and reports of all of it.
func StopControl() (r Report, ok bool) {
	if control == nil {
		return Report{}, false
	}
	r = control.load.Stop()
	control.close()
	control = nil
	return r, true
}

func newControl(t testing.TB) (c *Control, err error) {
	t.Helper()
	c = &Control{}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	envoy := envoytest.Binary(t, Version)
	if c.dir, err = os.MkdirTemp("", "control-"); err != nil {
		return c, err
	}
	if err := controlCertificates(t, c.dir); err != nil {
		return c, err
	}
	web, err := ServeHTTP("127.0.0.1:0", "control\n", nil)
	if err != nil {
		return c, err
	}
	c.servers = append(c.servers, web)
	echo, err := ServeEcho("127.0.0.1:0", "")
	if err != nil {
		return c, err
	}
	c.servers = append(c.servers, echo)
	var port [4]int // the caller's for http and tcp, the destination's for http and tcp
	for n := range port {
		if port[n], err = ports.Next(); err != nil {
			return c, err
		}
	}
	in := controlBootstrap(c.dir, "destination", "downstream", port[2:], []int{web.Port(), echo.Port()})
	out := controlBootstrap(c.dir, "caller", "upstream", port[:2], port[2:])
	for name, text := range map[string]string{"destination": in, "caller": out} {
		path := filepath.Join(c.dir, name+".json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return c, err
		}
		cmd := exec.Command(envoy, "--config-path", path, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning")
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		dieWithParent(cmd.SysProcAttr)
		p, err := Launch("control's "+name, filepath.Join(c.dir, name+".log"), cmd)
		if err != nil {
			return c, err
		}
		c.processes = append(c.processes, p)
	}
	config := controlLoad
	config.URL, config.TCP = fmt.Sprintf("http://127.0.0.1:%d", port[0]), fmt.Sprintf("127.0.0.1:%d", port[1])
	_, err = Within(Deadline, func() error {
		l, err := StartLoad(LoadConfig{TCP: config.TCP, Held: 1})
		if err == nil {
			l.Stop()
		}
		return err
	})
	if err != nil {
		return c, fmt.Errorf("%w\n%s", err, c.processes[0].Tail(10))
	}
	c.load, err = StartLoad(config)
	return c, err
}

func (c *Control) close() {
	for _, p := range c.processes {
		p.Kill()
	}
	for _, s := range c.servers {
		s.Close()
	}
	if c.dir != "" {
		_ = os.RemoveAll(c.dir)
	}
}

// controlCertificates writes ca.pem, leaf.pem and leaf.key into dir: one leaf for both sides.
func controlCertificates(t testing.TB, dir string) error {
	t.Helper()
	day := time.Now().Add(24 * time.Hour)
	root := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "control"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: day}, nil)
	leaf := testca.Sign(t, &x509.Certificate{
		URIs: []*url.URL{{Scheme: "spiffe", Host: "control", Path: "/control"}}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, NotAfter: day,
	}, root)
	key, err := x509.MarshalECPrivateKey(leaf.Key)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"ca.pem": root.PEM(), "leaf.pem": leaf.PEM(), "leaf.key": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// controlBootstrap is the configuration of an Envoy that listens at two ports, for http and tcp, and
// leads to two others; TLS is on the side that tls names, "downstream" or "upstream".
func controlBootstrap(dir, id, tls string, listen, to []int) string {
	context := fmt.Sprintf(`{"tls_certificates":[{"certificate_chain":{"filename":"%[1]s/leaf.pem"},"private_key":{"filename":"%[1]s/leaf.key"}}],
"validation_context":{"trusted_ca":{"filename":"%[1]s/ca.pem"}}}`, dir)
	socket := func(side, rest string) string {
		if side != tls {
			return ""
		}
		kind := strings.ToUpper(side[:1]) + side[1:]
		return fmt.Sprintf(`,"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.%sTlsContext"%s,"common_tls_context":%s}}`,
			kind, rest, context)
	}
	const hcm = `{"name":"http","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"http",
"route_config":{"virtual_hosts":[{"name":"all","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"http"}}]}]},
"http_filters":[{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}`
	const tcp = `{"name":"tcp","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"tcp","cluster":"tcp"}}`
	address := func(port int) string {
		return fmt.Sprintf(`{"socket_address":{"address":"127.0.0.1","port_value":%d}}`, port)
	}
	listener := func(name, filter string, port int) string {
		return fmt.Sprintf(`{"name":"%s","address":%s,"filter_chains":[{"filters":[%s]%s}]}`,
			name, address(port), filter, socket("downstream", `,"require_client_certificate":true`))
	}
	cluster := func(name string, port int) string {
		return fmt.Sprintf(`{"name":"%[1]s","type":"STATIC","connect_timeout":"5s","load_assignment":{"cluster_name":"%[1]s","endpoints":[{"lb_endpoints":[{"endpoint":{"address":%[2]s}}]}]}%[3]s}`,
			name, address(port), socket("upstream", ""))
	}
	return fmt.Sprintf(`{"node":{"id":"%s","cluster":"control"},"static_resources":{"listeners":[%s,%s],"clusters":[%s,%s]}}`,
		id, listener("http", hcm, listen[0]), listener("tcp", tcp, listen[1]), cluster("http", to[0]), cluster("tcp", to[1]))
}
