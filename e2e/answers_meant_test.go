//go:build e2e

package e2e

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// meantDifferences are the rows of the table in docs/native.md. Each takes no more out of answers than what it says.
var meantDifferences = []meantDifference{
	{
		"Consul's own service `consul` is not there", "there are no servers",
		regexp.MustCompile(`^GET /v1/(catalog|health)/service`),
		func(theirs, _ map[string]any) {
			if m, ok := theirs["body"].(map[string]any); ok {
				delete(m, "consul")
			}
			if list, ok := theirs["body"].([]any); ok {
				theirs["body"] = slices.DeleteFunc(list, func(e any) bool {
					m, _ := e.(map[string]any)
					s, _ := m["Service"].(map[string]any)
					return m["ServiceName"] == "consul" || s["Service"] == "consul"
				})
			}
		},
	},
	{
		"No virtual addresses: `consul-virtual` in tagged addresses, `AutoVirtualIPs` and `ManualVirtualIPs` of chains", "they are for transparent proxies, which are not supported",
		regexp.MustCompile(`/v1/(health|catalog|agent|discovery-chain)/`),
		func(theirs, ours map[string]any) {
			each(theirs["body"], func(m map[string]any) {
				for _, key := range []string{"TaggedAddresses", "ServiceTaggedAddresses"} {
					if tagged, ok := m[key].(map[string]any); ok {
						if delete(tagged, "consul-virtual"); len(tagged) == 0 {
							delete(m, key)
						}
					}
				}
			})
			for _, a := range []map[string]any{theirs, ours} {
				each(a["body"], func(m map[string]any) {
					delete(m, "AutoVirtualIPs")
					delete(m, "ManualVirtualIPs")
				})
			}
		},
	},
	{
		"Sidecars have no check `Connect Sidecar Listening`", "files run no checks; a sidecar is as healthy as its application",
		regexp.MustCompile(`/v1/health/`),
		func(theirs, _ map[string]any) {
			listening := func(e any) bool { m, _ := e.(map[string]any); return m["Name"] == "Connect Sidecar Listening" }
			if list, ok := theirs["body"].([]any); ok {
				theirs["body"] = slices.DeleteFunc(list, listening)
			}
			each(theirs["body"], func(m map[string]any) {
				if list, ok := m["Checks"].([]any); ok {
					m["Checks"] = slices.DeleteFunc(list, listening)
				}
			})
		},
	},
	{
		"In the config of upstreams, what is not set is left out, not `null`", "clients read both alike",
		regexp.MustCompile(`/v1/(health|catalog)/`),
		func(theirs, _ map[string]any) {
			each(theirs["body"], func(m map[string]any) {
				for _, key := range []string{"limits", "passive_health_check"} {
					if c, ok := m[key].(map[string]any); ok {
						for k, v := range c {
							if v == nil {
								delete(c, k)
							}
						}
					}
				}
			})
		},
	},
	{
		"A failure has no index and says nothing of a leader, whatever the endpoint", "nothing can be waited for; Consul's endpoints differ",
		regexp.MustCompile(`.`),
		func(theirs, _ map[string]any) {
			if code, _ := theirs["code"].(int); code >= 400 && code != 404 {
				dropHeaders(theirs, "X-Consul-Index", "X-Consul-Knownleader", "X-Consul-Lastcontact", "X-Consul-Query-Backend", "X-Consul-Effective-Consistency")
			}
		},
	},
	{
		"`X-Consul-Query-Backend` is always `blocking-query` and `X-Consul-KnownLeader` `true`; `?cached` changes nothing, and there is no `X-Cache` and no `Age`", "all answers come from memory",
		regexp.MustCompile(`(index|cached)`),
		func(theirs, ours map[string]any) {
			for _, a := range []map[string]any{theirs, ours} {
				dropHeaders(a, "X-Consul-Query-Backend", "X-Consul-Knownleader", "X-Cache", "Age")
			}
		},
	},
	{
		"`/v1/agent/services?filter` may name what is below `Proxy` and `Connect`", "Consul's agent ends the connection without an answer",
		regexp.MustCompile(`^GET /v1/agent/services.filter=(Proxy|Connect)`),
		func(theirs, ours map[string]any) {
			if theirs["body"] == connectionEnds {
				maps.Copy(theirs, ours)
			}
		},
	},
	{
		"`/v1/status/leader` and `/v1/status/peers` name `127.0.0.1:8300`, where nothing listens", "clients ask whether there is a leader, not where",
		regexp.MustCompile(`^GET /v1/status/`),
		func(theirs, ours map[string]any) {
			for _, a := range []map[string]any{theirs, ours} {
				if list, ok := a["body"].([]any); ok && len(list) == 1 {
					a["body"] = list[0]
				}
				if address, _ := a["body"].(string); strings.HasPrefix(address, "127.0.0.1:") {
					a["body"] = "127.0.0.1"
				}
			}
		},
	},
	{
		"`/v1/agent/self` has `Config` and `Meta`; `DebugConfig` and `Coord` are null, `Member` and `Stats` short, and there is no `xDS`", "those tell of Consul's insides",
		regexp.MustCompile(`^GET /v1/agent/self`),
		func(theirs, ours map[string]any) {
			for _, a := range []map[string]any{theirs, ours} {
				if m, ok := a["body"].(map[string]any); ok {
					maps.DeleteFunc(m, func(key string, _ any) bool { return key != "Config" && key != "Meta" })
				}
			}
		},
	},
	{
		"`/` is 404", "there is no user interface",
		regexp.MustCompile(`^GET /$`),
		func(theirs, ours map[string]any) {
			if body, _ := theirs["body"].(string); strings.Contains(body, "UI disabled") {
				theirs["body"], theirs["code"] = ours["body"], ours["code"]
			}
		},
	},
}

func dropHeaders(a map[string]any, names ...string) {
	if h, ok := a["headers"].(map[string]any); ok {
		for _, name := range names {
			delete(h, name)
		}
	}
}
