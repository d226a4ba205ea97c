package definition

import "strings"

// Mesh is what the mesh entry says.
type Mesh struct {
	Incoming, Outgoing TLS
	// DropForwardedClientCert is HTTP.SanitizeXForwardedClientCert.
	DropForwardedClientCert bool
}

// TLS is what is said of the TLS versions of one direction.
type TLS struct {
	Allow12 Setting[bool] // beside TLS 1.3
	// Below13 says that TLS 1.3 is not wanted, which is a mistake.
	Below13 bool
}

// Mesh reads the fields of the mesh entry.
func (d *Decoder) Mesh() (m Mesh) {
	if t, ok := d.Child("TLS", "TLS"); ok {
		if in, ok := t.Child("Incoming", "Incoming"); ok {
			m.Incoming = in.tls()
		}
		if out, ok := t.Child("Outgoing", "Outgoing"); ok {
			m.Outgoing = out.tls()
		}
		t.Done()
	}
	if h, ok := d.Child("HTTP", "HTTP"); ok {
		m.DropForwardedClientCert = h.Boolean("SanitizeXForwardedClientCert").Value
		h.Unsupported("Incoming")
		h.Done()
	}
	return m
}

// tls reads the bounds on one direction's TLS versions.
func (d *Decoder) tls() (t TLS) {
	least := d.Text("TLSMinVersion")
	t.Allow12 = Setting[bool]{Set: true, At: least.At}
	switch least.Value {
	case "", "TLS_AUTO":
		n := d.Field("TLSMinVersion")
		t.Allow12.Set = n != nil && n.Kind != Text // what cannot be read allows nothing
	case "TLSv1_2":
		t.Allow12.Value = true
	case "TLSv1_3":
	case "TLSv1_0", "TLSv1_1":
		t.Allow12.Value = true
		d.instead = "TLSv1_2 holds"
		d.wrong(d.field("TLSMinVersion"), "%s is not secure: TLSv1_2 and TLSv1_3 are taken", least.Value)
	default:
		d.instead = "TLSv1_3 holds"
		d.wrong(d.field("TLSMinVersion"),
			"%.60q is not known: TLS_AUTO, TLSv1_2 and TLSv1_3 are", least.Value)
	}
	switch most := d.Text("TLSMaxVersion"); most.Value {
	case "", "TLS_AUTO", "TLSv1_3":
	default:
		t.Below13 = strings.HasPrefix(most.Value, "TLSv1_")
		d.instead = "TLSv1_3 is taken too"
		d.wrong(d.field("TLSMaxVersion"),
			"%.60q: TLS_AUTO and TLSv1_3 are taken, as TLS 1.3 cannot be switched off", most.Value)
	}
	d.instead = "those with authenticated encryption are taken"
	d.Unsupported("CipherSuites")
	d.Done()
	return t
}
