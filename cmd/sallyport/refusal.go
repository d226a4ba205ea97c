package main

import (
	"cmp"
	"net/netip"
	"strings"

	"github.com/sallyport/sallyport/internal/netns"
	"github.com/sallyport/sallyport/internal/sockettable"
	"github.com/sallyport/sallyport/xds"
)

// maxHolders is how many addresses are looked up of which an Envoy says that somebody else has them:
// each look goes through all open files of the machine.
const maxHolders = 20

// holders finds out who has addresses, most of them at most.
type holders struct{ most int }

// refusal is what Envoy says of n, one that it refused, and who has the address that it could not
// have, as far as that can be seen from here.
func (h *holders) refusal(p xds.ProxyStatus, n *xds.NACK) string {
	text := oneLine(strings.TrimSpace(n.Message))
	address := n.InUse()
	if address == "" || !n.Standing || h.most == 0 || len(p.Streams) == 0 {
		return text
	}
	h.most--
	var holder string
	if addr, err := netip.ParseAddrPort(address); err == nil {
		holder = sockettable.PortHolder(addr)
	} else {
		holder = sockettable.SocketHolder(address)
	}
	switch there := p.Streams[len(p.Streams)-1].Network; {
	case holder == "":
		return text
	case there == "":
		return text + " (if its Envoy runs here, by " + holder + ")"
	case there != netns.ID():
		return text // who has it here has nothing to do with it
	}
	return text + ", by " + holder
}

// remedy is how to mend what the Envoy of p refuses; empty: it is not known.
func remedy(p xds.ProxyStatus, n *xds.NACK) string {
	text := n.Remedy()
	if origin := cmp.Or(n.Origin, p.Origin); text != "" && origin != "" {
		text += " (" + origin + ")"
	}
	return text
}
