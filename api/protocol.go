package api

import (
	"encoding/json"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// protocolOf is what config entries say that a service speaks, whether it is known or not. As to Consul, service-defaults without a
// Protocol say tcp.
func protocolOf(v *catalog.View, name identity.Name) string {
	if s := v.Service(name); s != nil {
		return s.Protocol.String()
	}
	var said struct {
		Protocol string
		Config   struct{ Protocol string }
	}
	e := v.Entry("service-defaults", name.Service)
	if e == nil {
		e = v.Entry("proxy-defaults", "global")
	}
	if e == nil || e.Fields == "" || json.Unmarshal([]byte(e.Fields), &said) != nil {
		return catalog.TCP.String()
	}
	if said.Protocol == "" {
		said.Protocol = said.Config.Protocol
	}
	return definition.Protocol(said.Protocol).String()
}
