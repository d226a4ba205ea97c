package consul

import (
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/catalog"
)

const (
	meshEntryName          = "mesh/mesh"
	proxyDefaultsEntryName = "proxy-defaults/global"
)

// readMesh puts what the mesh entry says into m. Sidecars under Consul's own control plane speak TLS 1.2 as clients, so it is
// taken in beside 1.3 unless the entry says otherwise.
func (e *meshEntry) readMesh(m *catalog.Mesh) []Problem {
	var problems []Problem
	problem := func(format string, args ...any) {
		problems = append(problems, Problem{Entry: meshEntryName, Text: fmt.Sprintf(format, args...)})
	}
	m.Incoming.Allow12 = true
	if t := e.TLS; t != nil {
		if in := t.Incoming; in != nil {
			switch in.TLSMinVersion {
			case "", "TLS_AUTO", "TLSv1_2":
			case "TLSv1_3":
				m.Incoming.Allow12 = false
			case "TLSv1_0", "TLSv1_1":
				problem("TLS.Incoming.TLSMinVersion %s is not secure: TLSv1_2 holds", in.TLSMinVersion)
			default:
				problem("TLS.Incoming.TLSMinVersion %.20q is not known: TLSv1_3 holds", in.TLSMinVersion)
				m.Incoming.Allow12 = false
			}
			if below13(in.TLSMaxVersion) {
				// Sidecars under Consul's control plane take no 1.3 then.
				m.Outgoing.Allow12 = true
				problem("TLS.Incoming.TLSMaxVersion %s: TLSv1_3 is taken too, as it cannot be switched off", in.TLSMaxVersion)
			}
			if len(in.CipherSuites) > 0 {
				problem("TLS.Incoming.CipherSuites are not supported yet: those with authenticated encryption are taken")
			}
		}
		if out := t.Outgoing; out != nil {
			switch out.TLSMinVersion {
			case "TLSv1_0", "TLSv1_1", "TLSv1_2":
				m.Outgoing.Allow12 = true
			}
			if below13(out.TLSMaxVersion) {
				problem("TLS.Outgoing.TLSMaxVersion %s: TLSv1_3 is offered too, as it cannot be switched off", out.TLSMaxVersion)
			}
			if len(out.CipherSuites) > 0 {
				problem("TLS.Outgoing.CipherSuites are not supported yet: those with authenticated encryption are offered")
			}
		}
	}
	if h := e.HTTP; h != nil {
		m.DropForwardedClientCert = h.SanitizeXForwardedClientCert
		if h.Incoming != nil && len(h.Incoming.RequestNormalization) > 0 {
			problem("HTTP.Incoming.RequestNormalization is not supported yet: it is not taken")
		}
	}
	return problems
}

func below13(version string) bool {
	return strings.HasPrefix(version, "TLSv1_") && version != "TLSv1_3"
}

// settings are what proxy-defaults say for all proxies.
func (d *proxyDefaults) settings() (ownSettings, []Problem) {
	var texts []string
	own := readOptions("Config", d.Config, &texts).own()
	var problems []Problem
	for _, t := range texts {
		problems = append(problems, Problem{Entry: proxyDefaultsEntryName, Text: t})
	}
	return own, problems
}
