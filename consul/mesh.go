package consul

import (
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
)

const (
	meshEntryName          = "mesh/mesh"
	proxyDefaultsEntryName = "proxy-defaults/global"
)

// readMesh puts what the mesh entry says into m. Sidecars under Consul's own control plane speak
// TLS 1.2 as clients, so it is taken in beside 1.3 unless the entry says otherwise.
func (e *meshEntry) readMesh(m *catalog.Mesh) (problems []Problem) {
	read := lenient(&problems, Problem{Entry: meshEntryName}).Decoder(&e.Node, "").Mesh()
	m.Incoming.Allow12 = read.Incoming.Allow12.Else(true)
	// Sidecars under Consul's control plane take no 1.3 where that is below the highest.
	m.Outgoing.Allow12 = read.Outgoing.Allow12.Value || read.Incoming.Below13
	m.DropForwardedClientCert = read.DropForwardedClientCert
	return problems
}

// meshDefaults are what proxy-defaults say for all proxies, as far as that is asked for by itself:
// Consul has merged all of it into the config of each proxy and upstream.
type meshDefaults struct {
	definition.Own
	protocol       definition.Setting[catalog.Protocol]
	requestTimeout definition.Setting[time.Duration]
}

// settings are what d says.
func (d *proxyDefaults) settings() (m meshDefaults, problems []Problem) {
	config := lenient(&problems, Problem{Entry: proxyDefaultsEntryName}).Decoder(&d.Config, "Config")
	return meshDefaults{config.Own(), config.Protocol(), config.RequestTimeout()}, problems
}

// spoken is what is spoken to a service, or by its proxy: what a config says, else what its chain
// does. What is only that of proxy-defaults does not go before a chain: service-defaults without a
// Protocol say tcp, and those who dial and who are dialled have to agree.
func (m *meshDefaults) spoken(config definition.Setting[catalog.Protocol], chain catalog.Protocol) catalog.Protocol {
	if config.Set && config.Value != m.protocol.Else(chain) {
		return config.Value
	}
	return chain
}
