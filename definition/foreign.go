package definition

import (
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// ForeignMeta is the key, without the source's name at its end, by which the Meta of a
// service-intentions entry in Consul says that a source is a workload of another trust domain:
// sallyport_spiffe_id_billing. Consul has no field for it. In files it means nothing.
const ForeignMeta = "sallyport_spiffe_id_"

// foreignSource reads the SPIFFE ID that a source is given by in files.
func (d *Decoder) foreignSource(f *Field) (id identity.ID, ok bool) {
	if name := d.field("Name"); name != nil {
		d.say(f.At, f, "%s has %s and %s: a source is one of them", d.What, f.Key, name.Key)
		return "", false
	}
	for _, key := range []string{"Namespace", "Partition"} {
		d.Only(key)
	}
	return d.SpiffeID("SpiffeID")
}

// SpiffeID is the SPIFFE ID of a workload of another trust domain, the value of key, which is given; ok is false if it
// is none, which is a mistake.
func (d *Decoder) SpiffeID(key string) (id identity.ID, ok bool) {
	s := d.Text(key) // not set if it is empty, which is no SPIFFE ID
	if !s.Set && d.Faulty(key) {
		return "", false
	}
	return d.spiffeID(d.field(key), s.Value)
}

// Workload is who is dialled in another trust domain, and where.
type Workload struct {
	ID      identity.ID
	Address string // an IP address or a host name
	Port    uint16
}

// Workload reads one by its three keys; ok is false if not all of it is known, which is a mistake. It is for what Consul has, where
// what dials it is not there then.
func (d *Decoder) Workload(id, address, port string) (w Workload, ok bool) {
	instead := d.instead
	d.instead = "its listener is not there"
	defer func() { d.instead = instead }()
	w.ID, ok = d.SpiffeID(id)
	host, number := d.DialAddress(address), d.Port(port)
	if !d.Faulty(id, address, port) && (!host.Set || !number.Set) {
		d.Mistake(d.At, "it needs %s and %s: it is in no catalog, so where it is has to be said", address, port)
	}
	w.Address, w.Port = host.Value, number.Value
	return w, ok && host.Set && number.Set
}

func (d *Decoder) spiffeID(f *Field, text string) (id identity.ID, ok bool) {
	id, err := identity.ParseID(text)
	switch {
	case err == nil:
		return id, true
	case strings.Contains(text, identity.Wildcard):
		d.wrong(f, "%.200q: a workload of another trust domain is named exactly, without a wildcard", text)
	default:
		d.wrong(f, "is not the SPIFFE ID of a workload, as spiffe://td-b.example/ns/prod/sa/web: %s", err)
	}
	return "", false
}

// foreignByMeta makes s a workload of another trust domain if the Meta of its entry says so. Such a
// source has to have a Peer, whichever: to Consul it is then nobody of this mesh, too, whoever it
// asks. What is not understood is reported, and so denies.
func (d *Decoder) foreignByMeta(s *intention.Source) {
	meta := d.field("Meta")
	if meta == nil || meta.Value.Kind != Mapping {
		return
	}
	for k := range meta.Value.Fields {
		f := &meta.Value.Fields[k]
		if f.Key != ForeignMeta+s.Service {
			continue
		}
		switch {
		case f.Value.Kind != Text:
			d.say(f.At, f, "%s: it is no text", f.Key)
		case s.Peer == "":
			d.say(f.At, f, "%s of a source without a Peer: give it one, whichever, so that it is no service of this mesh to Consul", f.Key)
		default:
			path := d.path
			d.path = "" // its key says where it is
			if id, ok := d.spiffeID(f, f.Value.Text); ok {
				*s = intention.Source{ID: id}
			}
			d.path = path
		}
	}
}
