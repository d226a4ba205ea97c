package files

import (
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// maxDescription is Consul's bound on the description of an intention.
const maxDescription = 512

// serviceIntentions reads a service-intentions entry: the intentions of one destination.
func (d *directory) serviceIntentions(o *object) {
	name := o.text("Name")
	sources := o.children("Sources", "source")
	o.entryCommon()
	o.unsupported("JWT")
	o.done()
	destination, ok := o.pattern("Name", name)
	if !ok {
		o.require("Name", name)
	}
	if len(sources) == 0 && !o.broken {
		o.problem(o.at, "service-intentions need at least one source")
	}
	ok = ok && d.destination(name.value, o.at)
	seen := map[intention.Source]position{}
	for _, s := range sources {
		i, good := s.source()
		if !good {
			continue
		}
		if first, twice := seen[i.Source]; twice {
			s.problem(s.at, "source %s is given twice (first at %s)", i.Source, first)
			continue
		}
		seen[i.Source] = s.at
		if ok {
			i.Destination = destination
			d.intentions = append(d.intentions, i)
		}
	}
}

// destination takes a destination for the service-intentions at a place. They must all be in one entry, as in Consul.
func (d *directory) destination(name string, at position) bool {
	if first, taken := d.destinations[name]; taken {
		d.problem(at, "service-intentions for %s are given twice (first at %s): put all sources into one entry", name, first)
		return false
	}
	d.destinations[name] = at
	return true
}

// source reads one source of a service-intentions entry; the destination is for the caller to fill in.
func (o *object) source() (i intention.Intention, ok bool) {
	name := o.text("Name")
	i.Source.Name, ok = o.pattern("Name", name)
	if !ok {
		o.require("Name", name)
	}
	permissions := o.field("Permissions")
	action := o.text("Action")
	switch {
	case permissions != nil && !permissions.empty() && action.set:
		o.problem(action.at, "source has Action and Permissions: it can have one of them")
		ok = false
	case permissions != nil && !permissions.empty():
		o.problem(permissions.at, "Permissions in %s are not supported yet", o.what)
		ok = false
	case action.value == "allow":
		i.Action = intention.Allow
	case action.value == "deny":
		i.Action = intention.Deny
	case action.set:
		o.problem(action.at, "Action %.60q is not known: allow and deny are, in lower case", action.value)
		ok = false
	default:
		ok = o.require("Action", action) && ok
	}
	if t := o.text("Type"); t.set && t.value != "consul" {
		o.problem(t.at, `Type %.60q of source is not known: "consul" is`, t.value)
	}
	if desc := o.text("Description"); len(desc.value) > maxDescription {
		o.problem(desc.at, "Description has %d bytes: at most %d are allowed", len(desc.value), maxDescription)
	}
	o.tenancy("")
	o.unsupported("SamenessGroup", "LegacyID", "LegacyMeta", "LegacyCreateTime", "LegacyUpdateTime")
	o.ignoreSilently("Precedence") // Consul's output has it; it follows from the names
	i.Origin = o.at.String()
	o.done()
	return i, ok && !o.broken
}

// pattern is a service's name, or "*" for all.
func (o *object) pattern(key string, s setting[string]) (identity.Name, bool) {
	switch {
	case s.value == identity.Wildcard:
		return identity.NewName(identity.Wildcard), true
	case strings.Contains(s.value, identity.Wildcard):
		o.problem(s.at, "%s %.60q: the wildcard * can only stand alone", key, s.value)
		return identity.Name{}, false
	case !o.name(key, s):
		return identity.Name{}, false
	}
	return identity.NewName(s.value), true
}
