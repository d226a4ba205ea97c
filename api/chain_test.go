package api

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/chain"
)

// The body of a question in which something is overridden is read as Consul reads it.
func TestOverrides(t *testing.T) {
	for body, want := range map[string]any{
		`{}`:   chain.Overrides{},
		`null`: chain.Overrides{},
		`{"OverrideProtocol":"grpc","OverrideConnectTimeout":"8s","OverrideMeshGateway":{"Mode":"local"}}`:  chain.Overrides{Protocol: "grpc", ConnectTimeout: 8 * time.Second, GatewayMode: "local"},
		`{"override_protocol":"grpc","override_connect_timeout":5,"override_mesh_gateway":{"mode":"none"}}`: chain.Overrides{Protocol: "grpc", ConnectTimeout: 5, GatewayMode: "none"},
		`{"OverrideMeshGateway":null,"OverrideConnectTimeout":"","Other":1}`:                                chain.Overrides{},
		`{"OverrideMeshGateway":{"Mode":"junk"}}`:                                                           "Invalid OverrideMeshGateway.Mode parameter",
		`{"OverrideConnectTimeout":"x"}`:                                                                    `Request decoding failed: error decoding 'OverrideConnectTimeout': time: invalid duration "x"`,
		`{"OverrideConnectTimeout":[]}`:                                                                     `Request decoding failed: error decoding 'OverrideConnectTimeout': neither a text nor a number`,
		``:                                                                                                  "Request decoding failed: EOF",
		`[`:                                                                                                 "Request decoding failed: unexpected EOF",
	} {
		o, err := overridesIn(strings.NewReader(body))
		var got any = o
		if err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
}

// The chain as an upstream has it that overrides something is told to whom the others are told.
func TestOverriddenChain(t *testing.T) {
	r := start(t)
	for _, c := range []struct {
		method, token, body string
		code                int
		want                string
	}{
		{"POST", "reader", `{"OverrideProtocol":"grpc"}`, 200, `"Protocol":"grpc"`},
		{"POST", "reader", `{"OverrideConnectTimeout":"8s"}`, 200, `"ConnectTimeout":"8s"`},
		{"GET", "reader", "", 200, `"ConnectTimeout":"5s"`},
		{"POST", "", `{}`, 403, ""},
		{"POST", "reader", `{"OverrideMeshGateway":{"Mode":"junk"}}`, 400, "Invalid OverrideMeshGateway.Mode parameter"},
		{"PUT", "reader", `{}`, 405, ""},
	} {
		a := r.ask(t, c.method, "/v1/discovery-chain/api", c.token, c.body)
		if a.code != c.code || !strings.Contains(a.body, c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.body, a.code, a.body)
		}
		if c.code == 200 && a.header.Get("X-Consul-Index") == "" {
			t.Errorf("%s %s: no index", c.method, c.body)
		}
	}
}
