package files

import (
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// serviceIntentions reads a service-intentions entry: the intentions of one destination.
func (d *directory) serviceIntentions(o *definition.Decoder) {
	name, ok := o.Pattern("Name")
	sources := o.Children("Sources", "source")
	entryCommon(o)
	o.Unsupported("JWT")
	o.Done()
	if len(sources) == 0 && !o.Broken {
		o.Mistake(o.At, "service-intentions need at least one source")
	}
	ok = ok && d.destination(name, o.At)
	seen := map[intention.Source]definition.Position{}
	for _, s := range sources {
		i, good := s.Intention()
		if !good {
			continue
		}
		if first, twice := seen[i.Source]; twice {
			s.Mistake(s.At, "source %s is given twice (first at %s)", i.Source, first)
			continue
		}
		seen[i.Source] = s.At
		if ok {
			i.Destination = identity.NewName(name)
			d.intentions = append(d.intentions, i)
		}
	}
}

// destination takes a destination for the service-intentions at a place. They must all be in one
// entry, as in Consul.
func (d *directory) destination(name string, at definition.Position) bool {
	if first, taken := d.destinations[name]; taken {
		d.problem(at, "service-intentions for %s are given twice (first at %s): put all sources into one entry", name, first)
		return false
	}
	d.destinations[name] = at
	return true
}
