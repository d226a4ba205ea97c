package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// startConsulLayout starts Envoys with the filters that Consul 1.19.2 configures for the same services, as they are seen in a
// config_dump: RBAC policies with a regular expression per source, the whole certificate in x-forwarded-client-cert, from which the
// source is copied into metadata with each request, and the certificates inside of listeners and clusters.
func (p *pair) startConsulLayout(ctx context.Context) error {
	pki, err := newPKI()
	if err != nil {
		return err
	}
	var ports [4]int
	for i := range ports {
		if ports[i], err = p.ports.Next(); err != nil {
			return err
		}
	}
	p.consulHTTP, p.consulTCP = ports[0], ports[1]
	api, tapi := ports[2], ports[3]
	for _, s := range []struct {
		name                string
		listeners, clusters []any
	}{
		{"api", []any{pki.inbound("api", api, inboundHTTP())}, []any{cluster4("local_app", p.app, nil)}},
		{"tapi", []any{pki.inbound("tapi", tapi, inboundTCP())}, []any{cluster4("local_app", p.app, nil)}},
		{
			"web",
			[]any{listener4("api", p.consulHTTP, []any{hcm("upstream.api", "api")}), listener4("tapi", p.consulTCP, []any{tcpProxy("upstream.tapi", "tapi")})},
			[]any{cluster4("api", api, pki.upstream("web", "api")), cluster4("tapi", tapi, pki.upstream("web", "tapi"))},
		},
	} {
		if pki.err != nil {
			return pki.err
		}
		file := filepath.Join(p.dir, "consul-"+s.name+".json")
		if err := writeJSON(file, object{"static_resources": object{"listeners": s.listeners, "clusters": s.clusters}}); err != nil {
			return err
		}
		c, err := launch("envoy with Consul's layout", filepath.Join(p.dir, "consul-"+s.name+".log"), meshtest.Environ(), p.envoy,
			"-c", file, "--concurrency", "1", "--log-level", "warning", "--disable-hot-restart", "--use-dynamic-base-id")
		if err != nil {
			return err
		}
		p.processes = append(p.processes, c)
	}
	for _, port := range []int{p.consulHTTP, p.consulTCP} {
		if err := p.answers(ctx, port); err != nil {
			return err
		}
	}
	return nil
}

type object = map[string]any

// typed is a filter, or another extension, with its configuration.
func typed(name, typeName string, config object) object {
	o := object{"@type": "type.googleapis.com/" + typeName}
	maps.Copy(o, config)
	return object{"name": name, "typed_config": o}
}

func listener4(name string, port int, filters []any) object {
	return object{
		"name": name, "address": address4(port), "filter_chains": []any{object{"filters": filters}},
	}
}

func address4(port int) object {
	return object{"socket_address": object{"address": "127.0.0.1", "port_value": port}}
}

func cluster4(name string, port int, socket object) object {
	c := object{
		"name": name, "type": "STATIC", "connect_timeout": "5s",
		"load_assignment": object{"cluster_name": name, "endpoints": []any{object{"lb_endpoints": []any{object{"endpoint": object{"address": address4(port)}}}}}},
	}
	if socket != nil {
		c["transport_socket"] = socket
	}
	return c
}

func tcpProxy(prefix, cluster string) object {
	return typed("envoy.filters.network.tcp_proxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", object{"stat_prefix": prefix, "cluster": cluster})
}

// rbac is the rules that let in web.
func rbac() object {
	source := object{"authenticated": object{"principal_name": object{"safe_regex": object{"google_re2": object{}, "regex": "^spiffe://[^/]+/ns/default/dc/[^/]+/svc/web$"}}}}
	return object{"rules": object{"action": "ALLOW", "policies": object{"consul-intentions-layer4": object{"permissions": []any{object{"any": true}}, "principals": []any{source}}}}}
}

func inboundTCP() []any {
	rules := rbac()
	rules["stat_prefix"] = "connect_authz"
	return []any{typed("envoy.filters.network.rbac", "envoy.extensions.filters.network.rbac.v3.RBAC", rules), tcpProxy("public_listener", "local_app")}
}

func inboundHTTP() []any {
	const identity = `.*URI=spiffe://([^/]+.[^/]+)(?:/ap/([^/]+))?/ns/([^/]+)/dc/([^/]+)/svc/([^/;,]+).*`
	var copies []any
	for i, key := range []string{"trust-domain", "partition", "namespace", "datacenter", "service"} {
		copies = append(copies, object{"header": "x-forwarded-client-cert", "on_header_present": object{
			"metadata_namespace": "consul", "key": key,
			"regex_value_rewrite": object{"pattern": object{"google_re2": object{}, "regex": identity}, "substitution": fmt.Sprintf(`\%d`, i+1)},
		}})
	}
	m := hcm("public_listener", "local_app",
		typed("envoy.filters.http.rbac", "envoy.extensions.filters.http.rbac.v3.RBAC", rbac()),
		typed("envoy.filters.http.header_to_metadata", "envoy.extensions.filters.http.header_to_metadata.v3.Config", object{"request_rules": copies}))
	config, _ := m["typed_config"].(object)
	config["forward_client_cert_details"] = "APPEND_FORWARD"
	config["set_current_client_cert_details"] = object{"subject": true, "cert": true, "chain": true, "dns": true, "uri": true}
	config["upgrade_configs"] = []any{object{"upgrade_type": "websocket"}}
	return []any{m}
}

func hcm(prefix, cluster string, filters ...any) object {
	return typed("envoy.filters.network.http_connection_manager", "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", object{
		"stat_prefix": prefix, "tracing": object{"random_sampling": object{}},
		"http_filters": append(filters, typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", object{})),
		"route_config": object{"name": prefix, "virtual_hosts": []any{object{
			"name": prefix, "domains": []any{"*"},
			"routes": []any{object{"match": object{"prefix": "/"}, "route": object{"cluster": cluster}}},
		}}},
	})
}

// pki is the certificates of the layout: a root, and leafs that it signed.
type pki struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	err  error // the first one
}

func newPKI() (*pki, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return nil, err
	}
	root, err = x509.ParseCertificate(der)
	return &pki{root: root, key: key}, err
}

// common is the leaf of a service and the root, as TLS settings have them. sans are who the peer has to be; none: anybody.
func (p *pki) common(service string, sans ...any) object {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.err = err
		return nil
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		URIs:     []*url.URL{{Scheme: "spiffe", Host: benchDomain, Path: "/ns/default/dc/dc1/svc/" + service}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, p.root, key.Public(), p.key)
	if err != nil {
		p.err = err
		return nil
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.err = err
		return nil
	}
	text := func(kind string, b []byte) object {
		return object{"inline_string": string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))}
	}
	validation := object{"trusted_ca": text("CERTIFICATE", p.root.Raw)}
	if len(sans) > 0 {
		validation["match_typed_subject_alt_names"] = sans
	}
	return object{
		"tls_certificates":   []any{object{"certificate_chain": text("CERTIFICATE", der), "private_key": text("PRIVATE KEY", private)}},
		"validation_context": validation,
	}
}

func (p *pki) inbound(service string, port int, filters []any) object {
	l := listener4("public_listener", port, filters)
	l["filter_chains"] = []any{object{"filters": filters, "transport_socket": typed("tls", "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
		object{"require_client_certificate": true, "common_tls_context": p.common(service)})}}
	return l
}

func (p *pki) upstream(service, destination string) object {
	san := object{"san_type": "URI", "matcher": object{"exact": "spiffe://" + benchDomain + "/ns/default/dc/dc1/svc/" + destination}}
	return typed("tls", "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
		object{"sni": destination + "." + benchDomain, "common_tls_context": p.common(service, san)})
}
