package claim

import (
	"fmt"
	"net/netip"
	"slices"
)

// Table is who holds which address. Envoys share ports without a word, so nobody else would find
// out. Make one with NewTable.
type Table struct {
	ports   map[hostPort][]*Address     // of an address, all of them for the port
	all     map[hostPort][]*Address     // of a family, which its wildcard stands for
	public  map[netip.AddrPort]*Address // of those that no other machine can have
	sockets map[hostSocket][]*Address
}

type (
	hostPort struct {
		host, network string
		ip            netip.Addr // the wildcard of a family: all of its addresses
		port          uint16
	}
	hostSocket struct{ host, socket string }
)

func (a *Address) key() hostPort { return hostPort{a.Host, a.Network, a.IP, a.Port} }

// wildcard is the key of the address that stands for all of a's family.
func (a *Address) wildcard() hostPort {
	if a.IP.Is4() {
		return hostPort{a.Host, a.Network, netip.IPv4Unspecified(), a.Port}
	}
	return hostPort{a.Host, a.Network, netip.IPv6Unspecified(), a.Port}
}

// NewTable returns one in which nobody holds anything.
func NewTable() *Table {
	return &Table{
		ports:   map[hostPort][]*Address{},
		all:     map[hostPort][]*Address{},
		public:  map[netip.AddrPort]*Address{},
		sockets: map[hostSocket][]*Address{},
	}
}

// Add has a held, unless it is another's: then nothing changes, and the Conflict says whose it is.
// Several may dial the same address.
func (t *Table) Add(a *Address) *Conflict {
	if c := t.conflict(a); c != nil {
		return c
	}
	if a.Socket != "" {
		k := hostSocket{a.Host, a.path()}
		t.sockets[k] = append(t.sockets[k], a)
		return nil
	}
	t.ports[a.key()] = append(t.ports[a.key()], a)
	t.all[a.wildcard()] = append(t.all[a.wildcard()], a)
	if a.isPublic() && !a.Dialled {
		t.public[netip.AddrPortFrom(a.IP, a.Port)] = a
	}
	return nil
}

// conflict says whose a is; nil: nobody's else.
func (t *Table) conflict(a *Address) *Conflict {
	lists := [2][]*Address{t.sockets[hostSocket{a.Host, a.path()}]}
	switch {
	case a.Socket != "":
	case a.IP.IsUnspecified():
		lists[0] = t.all[a.wildcard()]
	default:
		lists = [2][]*Address{t.ports[a.key()], t.ports[a.wildcard()]}
	}
	for _, others := range lists {
		for _, o := range others {
			if c := Clash(a, o); c != nil {
				return c
			}
		}
	}
	if where := netip.AddrPortFrom(a.IP, a.Port); a.isPublic() && !a.Dialled && t.public[where] != nil {
		return &Conflict{a, t.public[where], where.String()}
	}
	return nil
}

// Clash says that a, which comes later, and o, of one machine, cannot both be; nil: they can. Several proxies may dial
// one address. A proxy may expose what its own Envoy listens on, but for the administration: scrapers
// are let in to metrics like that.
func Clash(a, o *Address) *Conflict {
	switch {
	case a.Dialled && o.Dialled,
		a.Proxy == o.Proxy && a.What == whatExposes && o.What != whatAdmin,
		a.Proxy == o.Proxy && o.What == whatExposes && a.What != whatAdmin:
		return nil
	case a.Socket != "" && a.path() == o.path():
		return &Conflict{a, o, a.Socket}
	case a.Socket == "" && o.Socket == "" && a.Port == o.Port && overlap(a.IP, o.IP):
		return &Conflict{a, o, fmt.Sprintf("port %d of %s", a.Port, narrower(a.IP, o.IP))}
	}
	return nil
}

// Remove has a held no more.
func (t *Table) Remove(a *Address) {
	if a.Socket != "" {
		remove(t.sockets, hostSocket{a.Host, a.path()}, a)
		return
	}
	remove(t.ports, a.key(), a)
	remove(t.all, a.wildcard(), a)
	if where := netip.AddrPortFrom(a.IP, a.Port); t.public[where] == a {
		delete(t.public, where)
	}
}

func remove[K comparable](from map[K][]*Address, k K, a *Address) {
	from[k] = slices.DeleteFunc(from[k], func(o *Address) bool { return o == a })
	if len(from[k]) == 0 {
		delete(from, k)
	}
}
