package definition

import (
	"slices"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// maxDescription is Consul's bound on the description of an intention.
const maxDescription = 512

// Intention reads what an intention says of its source; the destination is for the caller to fill
// in. The source's keys are those of config entries, or in Consul's API, where other things are
// beside them, SourceName and so on. ok is false if the source is none that an identity can have,
// or not known from files. It is done with d then, and for an intention even a lenient Reader
// reports a key that nobody knows and that says something: what is not understood has to deny.
func (d *Decoder) Intention() (i intention.Intention, ok bool) {
	prefix, namespace := "", "Namespace"
	if d.Lenient {
		prefix, namespace = "Source", "SourceNS"
	}
	if id := d.field("SpiffeID"); !d.Lenient && id != nil {
		i.Source.ID, ok = d.foreignSource(id)
	} else {
		i.Source.Name, ok = d.ServiceName(prefix+"Name", namespace, prefix+"Partition")
	}
	i.Source.Peer = d.tenant(prefix+"Peer", "")
	if d.Lenient {
		d.foreignByMeta(&i.Source)
	}
	action := d.Text("Action")
	d.Know("Permissions")
	conditional := slices.ContainsFunc(d.Given("Permissions"), func(f *Field) bool { return !f.Value.Empty() })
	understood := false
	var list []intention.Permission
	switch {
	case conditional && action.Set:
		f := d.Given("Permissions")[0]
		d.say(action.At, f, "%sAction must be omitted if Permissions are specified", d.placed())
	case conditional:
		list, understood = d.permissions()
	case action.Value == "allow":
		i.Action, understood = intention.Allow, true
	case action.Value == "deny":
		understood = true
	case action.Set:
		d.wrong(d.field("Action"),
			"%.60q is not known: allow and deny are, in lower case", action.Value)
	default:
		d.Need("Action", action)
	}
	if t := d.Text(prefix + "Type"); t.Set && t.Value != "consul" {
		f := d.field(prefix + "Type")
		d.say(t.At, f, `%s %.60q of %s is not known: "consul" is`, f.Key, t.Value, d.What)
	}
	d.Unsupported(prefix + "SamenessGroup")
	var tokens *intention.Tokens
	if d.Lenient { // in config entries it is of all sources
		tokens = d.Tokens()
	}
	if understood {
		_ = i.Ask(list, tokens) // what is wrong with permissions is told already
	}
	// What says nothing about who is allowed what. The API before config entries had the first.
	d.Drop("LegacyID", "LegacyMeta", "LegacyCreateTime", "LegacyUpdateTime")
	if d.Lenient {
		d.Drop("ID", "Description", "DefaultAddr", "DefaultPort", "CreatedAt", "UpdatedAt",
			"Hash", "CreateIndex", "ModifyIndex", "RaftIndex", "Precedence")
		d.unsupportedPrefix("")
	} else {
		if s := d.Text("Description"); len(s.Value) > maxDescription {
			d.wrong(d.field("Description"),
				"has %d bytes: at most %d are allowed", len(s.Value), maxDescription)
		}
		d.Drop("Precedence") // Consul's output has it; it follows from the names
	}
	i.Origin = d.At.String()
	d.Done()
	return i, ok && (understood || d.Lenient)
}

// placed is Within with what follows it.
func (d *Decoder) placed() string {
	if d.Within == "" {
		return ""
	}
	return d.Within + "."
}

// ServiceName is a service, or the wildcard, with its namespace and partition; ok is false if no
// identity can be called so.
func (d *Decoder) ServiceName(service, namespace, partition string) (n identity.Name, ok bool) {
	name, ok := d.Pattern(service)
	n = identity.NewName(name)
	n.Partition, n.Namespace = d.tenant(partition, n.Partition), d.tenant(namespace, n.Namespace)
	if n.Namespace == identity.Wildcard { // holds the default one too, the only one there is
		n.Namespace = identity.Default
	}
	whole := n
	if n.IsWildcard() {
		whole.Service = "any"
	}
	return n, ok && whole.Check() == nil
}

// tenant is a namespace, a partition or a peer, of which files can have standard alone.
func (d *Decoder) tenant(key, standard string) string {
	if !d.Lenient {
		d.Only(key, standard)
		return standard
	}
	return d.Text(key).Else(standard)
}
