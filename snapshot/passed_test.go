package snapshot_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	headersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/snapshot"
)

// mirror answers each request on a socket with its head.
func mirror(t testing.TB, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					head, err := readHead(r)
					if err != nil {
						return
					}
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(head), head)
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
}

// readHead is all until an empty line.
func readHead(r *bufio.Reader) (head string, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == "\r\n" {
			return head, err
		}
		head += line
	}
}

// envoysHeaders are the headers of requests that Envoy knows as its own, and one that it does not.
var envoysHeaders = []string{
	"attempt-count", "cluster", "decorator-operation", "degraded", "downstream-service-cluster", "downstream-service-node",
	"expected-rq-timeout-ms", "external-address", "force-trace", "hedge-on-per-try-timeout", "immediate-health-check-fail", "internal",
	"ip-tags", "is-timeout-retry", "max-retries", "original-dst-host", "original-host", "original-method", "original-path", "original-url", "overloaded",
	"peer-metadata", "peer-metadata-id", "ratelimited", "retriable-header-names", "retriable-status-codes", "retry-grpc-on", "retry-on",
	"upstream-alt-stat-name", "upstream-canary", "upstream-healthchecked-cluster", "upstream-host-address", "upstream-rq-per-try-timeout-ms",
	"upstream-rq-timeout-alt-response", "upstream-rq-timeout-ms", "upstream-service-time", "upstream-stream-duration-ms", "of-tomorrow",
}

// serviceURI is the identity of a service.
func serviceURI(name string) string {
	return "spiffe://" + trustDomain + "/ns/default/dc/dc1/svc/" + name
}

// TestRequestsPassAsSent: what a peer says to the application reaches it as it was said, and what
// it says to Envoy does not count.
func TestRequestsPassAsSent(t *testing.T) {
	const forwarded = "x-forwarded-client-cert: By=<web>;Hash=<hash>;URI=<api>"
	var ofEnvoys []string
	for _, h := range envoysHeaders {
		ofEnvoys = append(ofEnvoys, "x-envoy-"+h+": 1", "X-Envoy-"+h+": 2")
	}
	onEnvoys(t, func(t *testing.T, version string, features snapshot.Features) {
		app := filepath.Join(socketDir(t), "app")
		mirror(t, app)
		in := input(onlyAPI(), catalog.Inbound{Protocol: catalog.HTTP, LocalSocket: app})
		in.Envoy = features
		d := startDynamicOnPort(t, version, build(t, in))
		d.fill("extensions/http/web", &headersv3.HeaderMutation{Mutations: &headersv3.Mutations{RequestMutations: []*mutationv3.HeaderMutation{{
			Action: &mutationv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
				Header: &corev3.HeaderValue{Key: "client", Value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"},
			}},
		}}}})
		seen := func(head []string) ([]string, error) {
			c, err := d.dial("api")
			if err != nil {
				return nil, err
			}
			defer c.Close()
			if _, err := io.WriteString(c, strings.Join(append(head, "x-request-id: 1", "", ""), "\r\n")); err != nil {
				return nil, err
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				return nil, err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err == nil && resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d: %s", resp.StatusCode, b)
			}
			got := string(b)
			for _, service := range []string{"web", "api"} {
				got = strings.ReplaceAll(got, serviceURI(service), "<"+service+">")
			}
			got = regexp.MustCompile("Hash=[0-9a-f]{64}").ReplaceAllString(got, "Hash=<hash>")
			return strings.Split(strings.TrimSuffix(got, "\r\n"), "\r\n"), err
		}
		meshtest.Await(t, "the filter that shows what Envoy takes for the client", func() error {
			lines, err := seen([]string{"GET / HTTP/1.1", "host: web"})
			if err == nil && !slices.Contains(lines, "client: 127.0.0.1") {
				err = fmt.Errorf("%q", lines)
			}
			return err
		})
		for name, test := range map[string]struct{ sent, want []string }{
			"path, host and origin": {
				[]string{`GET /a//b/./c/../d%2Fe%5Cf%2e%2e\g;h?i=%2F//../ HTTP/1.1`, "host: web:8443", "origin: https://web:8443", "x-forwarded-proto: https"},
				[]string{`GET /a//b/./c/../d%2Fe%5Cf%2e%2e\g;h?i=%2F//../ HTTP/1.1`, "host: web:8443", "origin: https://web:8443", "x-forwarded-proto: https"},
			},
			"underscores": {
				[]string{"GET / HTTP/1.1", "host: web", "x_tenant_id: 7", "x-tenant-id: 8", "x-forwarded-proto: http"},
				[]string{"GET / HTTP/1.1", "host: web", "x_tenant_id: 7", "x-tenant-id: 8", "x-forwarded-proto: http"},
			},
			"who says nothing about its protocol": {
				[]string{"GET / HTTP/1.1", "host: web"}, []string{"GET / HTTP/1.1", "host: web", "x-forwarded-proto: https"},
			},
			"what others said": {
				[]string{"GET / HTTP/1.1", "host: web", "x-forwarded-for: 203.0.113.7", "x-forwarded-proto: https", "x-forwarded-host: shop", "x-real-ip: 203.0.113.8", "via: 1.1 edge"},
				[]string{"GET / HTTP/1.1", "host: web", "x-forwarded-for: 203.0.113.7", "x-forwarded-proto: https", "x-forwarded-host: shop", "x-real-ip: 203.0.113.8", "via: 1.1 edge"},
			},
			"a long way": {
				[]string{"GET / HTTP/1.1", "host: web", "x-forwarded-for: " + strings.Repeat("9.9.9.9,", 6000), "x-forwarded-proto: http"},
				[]string{"GET / HTTP/1.1", "host: web", "x-forwarded-for: " + strings.Repeat("9.9.9.9,", 6000), "x-forwarded-proto: http"},
			},
			"who it would like to be": {
				[]string{"GET / HTTP/1.1", "host: web", "x-forwarded-client-cert: By=<web>;URI=" + serviceURI("admin"), "x-forwarded-proto: http"},
				[]string{"GET / HTTP/1.1", "host: web", "x-forwarded-proto: http"},
			},
			"who it would like to be, to an application that knows no underscores from hyphens": {
				[]string{"GET / HTTP/1.1", "host: web", "x_forwarded_client_cert: URI=" + serviceURI("admin"), "X-Forwarded_Client-Cert: URI=" + serviceURI("admin"), "x-forwarded-proto: http"},
				[]string{"GET / HTTP/1.1", "host: web", "x-forwarded-proto: http"},
			},
			"Envoy's own headers": {
				append([]string{"GET / HTTP/1.1", "host: web", "x-forwarded-proto: http"}, ofEnvoys...),
				[]string{"GET / HTTP/1.1", "host: web", "x-forwarded-proto: http"},
			},
		} {
			got, err := seen(test.sent)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			want := slices.Concat(test.want, []string{"x-request-id: 1", "client: 127.0.0.1", forwarded})
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		d.untouched()
	})
}

// TestHTTPIsNotHTTP2: a service that speaks http is asked in HTTP/1 alone, whether or not ALPN was
// spoken of.
func TestHTTPIsNotHTTP2(t *testing.T) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	onEnvoys(t, func(t *testing.T, version string, features snapshot.Features) {
		for protocol, want := range map[catalog.Protocol]bool{catalog.HTTP: false, catalog.HTTP2: true, catalog.GRPC: true} {
			in := input(onlyAPI(), catalog.Inbound{Protocol: protocol, LocalSocket: filepath.Join(socketDir(t), "app")})
			in.Envoy = features
			d := startDynamic(t, version, build(t, in))
			c, err := d.dial("api")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, preface); err != nil {
				t.Fatal(err)
			}
			frame := make([]byte, 4) // its length and its type: SETTINGS is 4
			_, err = io.ReadFull(c, frame)
			if got := err == nil && frame[3] == 4; got != want {
				t.Errorf("%s answers HTTP/2: %v (% x, %v), want %v", protocol, got, frame, err, want)
			}
		}
	})
}
