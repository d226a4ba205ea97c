package definition_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
)

// read reads a JSON text in one of the modes, and returns the mistakes, sorted as they were found.
func read(t *testing.T, lenient bool, text string, f func(*definition.Decoder)) []string {
	t.Helper()
	file := "f"
	if lenient {
		file = ""
	}
	n, err := definition.ParseJSON(file, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var mistakes []string
	r := definition.Reader{Lenient: lenient, Report: func(m definition.Mistake) {
		mistakes = append(mistakes, strings.TrimPrefix(m.At.String()+": "+m.Text, ": "))
	}}
	f(r.Decoder(n, "config"))
	return mistakes
}

// What is wrong is said at its place in a file and at its path in Consul's API, and there the rest
// counts.
func TestModes(t *testing.T) {
	for name, c := range map[string]struct {
		text            string
		strict, lenient []string
	}{
		"right":      {`{"local_connect_timeout_ms": "7", "max_inbound_connections": "", "protocol": "http", "server_first": "true"}`, nil, nil},
		"unknown":    {`{"local_conect_timeout_ms": 7}`, []string{`f:1: unknown key "local_conect_timeout_ms" in config: did you mean local_connect_timeout_ms?`}, nil},
		"as written": {`{"LocalConectTimeoutMs": 7}`, []string{`f:1: unknown key "LocalConectTimeoutMs" in config: did you mean LocalConnectTimeoutMs?`}, nil},
		"out of bounds": {
			"{\n\"BindPort\": 70000}",
			[]string{"f:2: BindPort is 70000: it must be 1 to 65535"},
			[]string{"config.BindPort is 70000: it must be 1 to 65535: it is not taken"},
		},
		"type": {
			`{"server_first": 1}`,
			[]string{"f:1: server_first must be true or false, not a number"},
			[]string{"config.server_first must be true or false, not a number: it is not taken"},
		},
		"twice": {
			"{\"bind_port\": 1,\n\"BindPort\": 2}",
			[]string{"f:2: BindPort is given twice in config (first at line 1)"},
			[]string{"config.BindPort is given twice (first as bind_port): it is not taken"},
		},
		"not supported": {
			`{"envoy_tracing_json": "{}", "envoy_stats_tags": [], "handshake_timeout_ms": 1}`,
			[]string{"f:1: envoy_tracing_json in config is not supported yet", "f:1: handshake_timeout_ms in config is not supported yet"},
			[]string{"config.envoy_tracing_json is not supported yet: it is not taken", "config.handshake_timeout_ms is not supported yet: it is not taken"},
		},
		"stats tags": {
			`{"envoy_stats_tags": ["team=shop", "a=b=c"]}`, nil, nil,
		},
		"no stats tag": {
			`{"envoy_stats_tags": ["team"]}`,
			[]string{`f:1: envoy_stats_tags has "team": it must be a name and a value, like "team=shop"`},
			[]string{`config.envoy_stats_tags has "team": it must be a name and a value, like "team=shop": it is not taken`},
		},
		"a stats tag twice": {`{"envoy_stats_tags": ["a=1", "a=2"]}`, []string{`f:1: envoy_stats_tags has "a" twice`}, []string{`config.envoy_stats_tags has "a" twice: it is not taken`}},
		"no list of tags": {
			`{"envoy_stats_tags": "a=1"}`,
			[]string{`f:1: envoy_stats_tags must be a list of strings like "team=shop", not a string`},
			[]string{`config.envoy_stats_tags must be a list of strings like "team=shop", not a string: it is not taken`},
		},
		"protocol":           {`{"protocol": "htp"}`, []string{`f:1: protocol "htp" is not known: tcp, http, http2 and grpc are`}, nil},
		"protocol, any case": {`{"protocol": "Http"}`, nil, nil},
		"no block":           {`5`, []string{"f:1: config must be a block, not a number"}, []string{"config must be a block, not a number: it is not taken"}},
		"null":               {`null`, nil, nil},
		"list":               {`[{"bind_port": 0}]`, []string{"f:1: bind_port is 0: it must be 1 to 65535"}, []string{"config.bind_port is 0: it must be 1 to 65535: it is not taken"}},
	} {
		t.Run(name, func(t *testing.T) {
			for lenient, want := range map[bool][]string{false: c.strict, true: c.lenient} {
				got := read(t, lenient, c.text, func(d *definition.Decoder) {
					if s := d.Settings(); s.BindPort.Set && name != "twice" {
						t.Errorf("%+v is taken", s.BindPort)
					}
				})
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("lenient %v: mistakes (-want +got):\n%s", lenient, diff)
				}
			}
		})
	}
}

// A time is text with a unit or, of Consul's API, a number of nanoseconds, too.
func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`"10s"`: 10 * time.Second, `"0s"`: 0, `""`: 0, `null`: 0, `0`: 0, `1500000000`: 1500 * time.Millisecond, `"1h"`: time.Hour, `31536000000000000`: -1,
		`-1`: -1, `"-1s"`: -1, `"10"`: -1, `1.5`: -1, `1e99`: -1, `true`: -1, `[]`: -1, `"9000h"`: -1,
	} {
		n, err := definition.ParseJSON("", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := definition.DurationOf(n); ok != (want >= 0) || ok && got != want {
			t.Errorf("%s is %v, %v; want %v", text, got, ok, want)
		}
	}
	// Upstreams take both spellings from Consul, and the rest of what is there.
	const text = `{"passive_health_check": {"interval": 10000000000, "base_ejection_time": "30s", "max_failures": 0, "max_ejection_percent": 101}}`
	mistakes := read(t, true, text, func(d *definition.Decoder) {
		want := catalog.PassiveHealthCheck{Set: true, Interval: 10 * time.Second, BaseEjectionTime: 30 * time.Second}
		if diff := cmp.Diff(want, d.UpstreamSettings().Passive.Value); diff != "" {
			t.Errorf("passive health check (-want +got):\n%s", diff)
		}
	})
	want := []string{"config.passive_health_check.max_ejection_percent is 101: it must be 0 to 100: it is not taken"}
	if diff := cmp.Diff(want, mistakes); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

// The more special of two settings counts, key by key.
func TestPrecedence(t *testing.T) {
	settings := func(text string) (s definition.Settings) {
		if m := read(t, true, text, func(d *definition.Decoder) { s = d.Settings() }); len(m) > 0 {
			t.Fatal(m)
		}
		return s
	}
	const all = `{"protocol": "http", "local_connect_timeout_ms": 1, "local_request_timeout_ms": 2, "local_idle_timeout_ms": 3, "max_inbound_connections": 4,
		"balance_inbound_connections": "exact_balance", "bind_address": "10.0.0.1", "bind_port": 5, "envoy_prometheus_bind_addr": "localhost:6", "envoy_stats_tags": ["team=shop"],
		"intention_enforcement": "both", "revocation": "new", "server_first": true, "accept_http_10": true, "access_logs": "failures", "sallyport_uid": 7, "sallyport_network": "x"}`
	s, none := settings(all), definition.Settings{}
	if text := fmt.Sprintf("%+v", s); strings.Contains(text, "Set:false") {
		t.Errorf("not all is set: %s", text)
	}
	if s != s.Over(none) || s != none.Over(s) || s.Over(settings(`{"bind_port": 8, "revocation": "drain", "protocol": "grpc"}`)) != s {
		t.Error("what is said is lost")
	}
	if got := settings(`{"bind_port": 8}`).Over(s); got.BindPort.Value != 8 || got.UID.Value != 7 {
		t.Errorf("%+v", got)
	}
	if got := s.Own.Without(s.Own); got != (definition.Own{}) {
		t.Errorf("%+v is left", got)
	}
	if s.Own.Without(none.Own) != s.Own {
		t.Error("nothing takes something away")
	}
}
