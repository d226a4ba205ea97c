package consul

import (
	"encoding/json"
	"fmt"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/definition"
)

// discovery is what the agent says of how a service is dialled.
type discovery struct {
	protocol string
	meta     definition.Node // of its service-defaults
	// chain is what it says, unless err says why nothing can be made of that.
	chain *chain.Chain
	err   error
}

// readDiscovery reads an answer about the service name. It is an error if the answer is about
// another one, or about none.
func readDiscovery(body []byte, name string) (*discovery, error) {
	a, err := decodeJSON[chainAnswer](body)
	var head chainHead
	if err == nil && len(a.Chain) > 0 {
		err = json.Unmarshal(a.Chain, &head)
	}
	if err == nil && (len(a.Chain) == 0 || head.ServiceName != name) {
		err = fmt.Errorf("it has no chain of %.60q", name)
	}
	if err != nil {
		return nil, err
	}
	d := &discovery{protocol: head.Protocol, meta: head.ServiceMeta}
	if d.chain, d.err = chain.Read(a.Chain); d.err == nil {
		d.chain.Protocol = definition.Protocol(d.protocol).String()
	}
	return d, nil
}
