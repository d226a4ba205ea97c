package files

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// serviceIntentions reads a service-intentions entry: the intentions of one destination.
func (d *definitions) serviceIntentions(o *definition.Decoder) {
	name, ok := o.Pattern("Name")
	sources := o.Children("Sources", "source")
	pairs := entryCommon(o)
	for key := range pairs {
		if strings.HasPrefix(key, definition.ForeignMeta) {
			// Whoever copied it from Consul would let in a service of the mesh that has the source's name.
			o.Mistake(metaAt(o, key), "Meta %s is for entries in Consul, which has no field for it: here give the source as spiffe_id, in the place of its Name", key)
		}
	}
	tokens, fields := o.Tokens(), o.Written(jwtShape)
	o.Done()
	if len(sources) == 0 && !o.Broken && !o.Faulty("Sources") {
		o.Mistake(o.At, "service-intentions need at least one source")
	}
	e := destination{at: o.At, Destination: &catalog.Destination{Name: identity.NewName(name)}}
	e.entry = write(catalog.IntentionsKind, name, o.At.String(), pairs, fields).entry
	seen := map[intention.Source]definition.Position{}
	allowing := false
	for n, s := range sources {
		s.Within = fmt.Sprintf("Sources[%d]", n)
		description := text(s.Written(descriptionShape), "Description")
		i, good := s.Intention()
		if !good {
			continue
		}
		switch own := i.Source.ID.TrustDomain() == d.config.TrustDomain; {
		case i.Source.ID == "":
		case own:
			s.Mistake(s.At, "source %s is of this mesh's own trust domain: give the service by its Name", i.Source.ID)
			continue
		case e.Name.IsWildcard():
			s.Mistake(s.At, "source %s is of another trust domain, and these intentions are about all services: name the ones that it may connect to", i.Source.ID)
			continue
		}
		if i.Permissions != nil && e.Name.IsWildcard() {
			s.Mistake(s.At, "%s.Permissions cannot be specified on intentions with wildcarded destinations", s.Within)
			continue
		}
		if first, twice := seen[i.Source]; twice {
			s.Mistake(s.At, "source %s is given twice (first at %s)", i.Source, first)
			continue
		}
		if tokens != nil {
			_ = i.Ask(i.Permissions.List(), tokens) // the permissions are good
			allowing = allowing || i.JWT != nil
		}
		seen[i.Source] = s.At
		i.Destination = e.Name
		e.Intentions = append(e.Intentions, i)
		e.entry.Sources = append(e.entry.Sources, catalog.EntrySource{Source: i.Source, Description: description})
	}
	if f := o.Field("JWT"); f != nil && tokens != nil && len(e.Intentions) > 0 && !allowing {
		o.Mistake(f.At, "JWT asks for tokens of those who are allowed, and no source is")
	}
	if f := o.Field("JWT"); f != nil && tokens != nil && e.Name.IsWildcard() {
		o.Mistake(f.At, "JWT cannot be asked for by intentions with wildcarded destinations: name the services")
	}
	if ok {
		slices.SortFunc(e.Intentions, intention.Compare)
		d.destination = e
	}
}
