package api

import (
	"crypto/sha256"
	"fmt"

	"github.com/sallyport/sallyport/catalog"
)

// node is the machine that all is registered on: files know of one alone.
type node struct {
	name    string
	version string // of sallyport
}

// nodeAddress is where applications are that name no address.
const nodeAddress = "127.0.0.1"

// id is a UUID that stays the same as long as the name does.
func (n *node) id() string {
	sum := sha256.Sum256([]byte("sallyport node " + n.name))
	b := sum[:16]
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80 // version 8, of the program's own making
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// consulVersion is the one whose API this is, for clients that ask what the server can do.
const consulVersion = "1.19.2"

func (n *node) addresses() map[string]string {
	return map[string]string{"lan": nodeAddress, "lan_ipv4": nodeAddress, "wan": nodeAddress, "wan_ipv4": nodeAddress}
}

func (n *node) meta() map[string]string {
	return map[string]string{"consul-network-segment": "", "consul-version": consulVersion}
}

// nodeAnswer is the node as the health and catalog endpoints have it.
type nodeAnswer struct {
	ID, Node, Address, Datacenter string
	Partition                     string `json:",omitempty"`
	PeerName                      string `json:",omitempty"`
	TaggedAddresses               map[string]string
	Meta                          map[string]string
	CreateIndex                   uint64 `bexpr:"-"`
	ModifyIndex                   uint64 `bexpr:"-"`
}

func (n *node) answer(v *catalog.View) *nodeAnswer {
	return &nodeAnswer{
		ID: n.id(), Node: n.name, Address: nodeAddress, Datacenter: v.Mesh().Datacenter, TaggedAddresses: n.addresses(), Meta: n.meta(),
		CreateIndex: 1, ModifyIndex: max(v.Revision().Mesh, 1),
	}
}
