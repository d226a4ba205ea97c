package consul

import (
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

// settings are what proxy-defaults say for all proxies.
func (d *proxyDefaults) settings() (own definition.Own, problems []Problem) {
	own = lenient(&problems, Problem{Entry: proxyDefaultsEntryName}).Decoder(&d.Config, "Config").Own()
	return own, problems
}
