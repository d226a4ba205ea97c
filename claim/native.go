package claim

import (
	"fmt"
	"net/netip"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
)

// Native is where a native application listens itself: none if it says no port, or if its address is a name. One
// that says no address may listen on any.
func Native(r *catalog.Registration) (addresses []Address) {
	if !r.Native {
		return nil
	}
	a := Address{What: whatNative, Name: r.ID, Origin: r.Origin, Host: r.Host, Port: r.Port, Socket: r.Socket, Dialled: true}
	ip, ok := definition.ParseListen(r.Address)
	switch {
	case r.Socket != "":
		return []Address{a}
	case r.Port == 0:
		return nil
	case r.Address == "":
		b := a
		a.IP, b.IP = netip.IPv4Unspecified(), netip.IPv6Unspecified()
		return []Address{a, b}
	case !ok:
		return nil
	}
	a.IP = ip
	return []Address{a}
}

// natives has the native applications of the contents hold what they held and still name, has those that are gone hold
// nothing, and returns the parts that hold nothing yet.
func (r *Registry) natives() (wanted []*part) {
	before := r.native
	r.native = make(map[string][]*part, len(before))
	for _, x := range r.contents.Registrations {
		addresses := Native(x)
		if len(addresses) == 0 {
			continue
		}
		parts := make([]*part, len(addresses))
		same := len(before[x.ID]) == len(parts)
		for i := range addresses {
			p := &part{Address: addresses[i], kind: native}
			p.part, parts[i] = p, p
			same = same && before[x.ID][i].subject() == p.subject()
		}
		if same {
			for _, p := range before[x.ID] {
				p.Origin = x.Origin
			}
			r.native[x.ID] = before[x.ID]
			delete(before, x.ID)
			continue
		}
		r.native[x.ID] = parts
		wanted = append(wanted, parts...)
	}
	for _, parts := range before {
		r.drop(parts)
	}
	return wanted
}

// holdNative has p hold its address, unless somebody's Envoy listens there.
func (r *Registry) holdNative(p *part) {
	if p.Socket != "" {
		p.real = realPath(&p.Address)
	}
	if c := r.table.Add(&p.Address); c != nil {
		p.fault = c.Error()
		return
	}
	p.held = true
}

// refusedNative is what comes of it that an Envoy listens where a native application does.
func (p *part) refusedNative() string {
	return fmt.Sprintf("who dials it there does not reach %s: give one of them another port", p.Name)
}
