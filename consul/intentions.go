package consul

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// matched are the intentions that an answer gave: of its own destination and of all destinations,
// each as contents have them; nil: there are none.
type matched struct{ own, wildcard *catalog.Destination }

// decodeIntentions returns what reads the intentions of one destination. An answer without that
// destination is none: a destination of which nothing is said has an empty list. Consul's answer
// names the destination as it was asked for, and in each intention as its entry does, which may be
// in other letter case: its servers look the entry up without regard to that.
func decodeIntentions(destination string) func([]byte) (matched, error) {
	var read intentionReader
	return func(body []byte) (m matched, err error) {
		answer, err := decodeJSON[map[string][]json.RawMessage](body)
		if err != nil {
			return m, err
		}
		list, ok := answer[destination]
		if !ok {
			return m, fmt.Errorf("it says nothing of the destination %.60q", destination)
		}
		by, err := read.destinations(list)
		return by.of(destination), err
	}
}

// destinations are what intentions say, by the destination's name in lower case.
type destinations map[string]*catalog.Destination

// of is what they say of a destination, under its own name, whatever the entry calls it: as in
// Consul letter case does not count.
func (by destinations) of(destination string) matched {
	m := matched{by[entryKey(destination)], by[identity.Wildcard]}
	if m.own != nil && m.own.Name.Service != destination {
		d := &catalog.Destination{Name: m.own.Name, Intentions: slices.Clone(m.own.Intentions)}
		d.Name.Service = destination
		for i := range d.Intentions {
			d.Intentions[i].Destination = d.Name
		}
		m.own = d
	}
	return m
}

// entryKey is what Consul looks an entry up by.
func entryKey(name string) string { return identity.Name{Service: name}.Fold().Service }

// decodeIntentionList returns what reads a list of intentions, by destination.
func decodeIntentionList() func([]byte) (destinations, error) {
	var read intentionReader
	return func(body []byte) (destinations, error) {
		list, err := decodeList[json.RawMessage](body)
		if err != nil {
			return nil, err
		}
		return read.destinations(list)
	}
}

// intentionReader reads what the answers of one query say. What it has read before it does not read
// again. The zero value is ready.
type intentionReader struct {
	// nil: it is about names that no identity can have
	before map[[sha256.Size]byte]*intention.Intention
}

// destinations are what a list says.
func (r *intentionReader) destinations(list []json.RawMessage) (destinations, error) {
	now := make(map[[sha256.Size]byte]*intention.Intention, len(list))
	all := make([]intention.Intention, 0, len(list))
	for _, raw := range list {
		key := sha256.Sum256(raw)
		i, ok := r.before[key]
		if !ok {
			var err error
			if i, err = decodeIntention(raw); err != nil {
				return nil, err
			}
		}
		if now[key] = i; i != nil {
			all = append(all, *i)
		}
	}
	r.before = now
	by := destinations{}
	for _, d := range catalog.ByDestination(all) {
		d.Intentions = slices.Compact(d.Intentions)
		by[d.Name.Service] = d
	}
	return by, nil
}

// decodeIntention reads one intention, whose destination is folded; nil if it is about names that
// no identity can have. What is not understood of it makes it deny its source.
func decodeIntention(raw json.RawMessage) (*intention.Intention, error) {
	n, err := decodeJSON[definition.Node](raw)
	if err != nil {
		return nil, err
	}
	if n.Kind != definition.Mapping {
		return nil, errors.New("it is no intention")
	}
	var unsupported string
	r := definition.Reader{Lenient: true, Report: func(m definition.Mistake) {
		text := strings.TrimSuffix(m.Text, ": it is not taken")
		switch {
		case m.Field == nil:
		case strings.HasPrefix(m.Field.Key, definition.ForeignMeta):
			// It is known, and wrong: so what is wrong.
		default:
			text = m.Field.Key
			if v := m.Field.Value; v.Kind == definition.Text {
				text += fmt.Sprintf(" %.60q", v.Text)
			}
		}
		unsupported = cmp.Or(unsupported, text, m.Text) // a key may be empty
	}}
	d := r.Decoder(&n, "intention")
	destination, known := d.ServiceName("DestinationName", "DestinationNS", "DestinationPartition")
	i, ok := d.Intention()
	// Folded it may be a name even if it is none as it is written (a Kelvin sign becomes a k).
	if i.Destination = destination.Fold(); !ok || !known && i.Destination.Check() != nil {
		return nil, nil //nolint:nilerr // the decoder has noted it
	}
	if i.Source.ID != "" && i.Destination.IsWildcard() {
		unsupported = cmp.Or(unsupported, "a SPIFFE ID as source of all services")
	}
	if i.JWT != nil && i.Destination.IsWildcard() {
		unsupported = cmp.Or(unsupported, "JWT of all services")
	}
	if i.Permissions != nil && i.Destination.IsWildcard() {
		unsupported = cmp.Or(unsupported, "Permissions of all services")
	}
	i.Unsupported, i.Origin = unsupported, "service-intentions/"+destination.Service
	if unsupported != "" {
		i.Action, i.Permissions, i.JWT = intention.Deny, nil, nil
	}
	return &i, nil
}

// mergeIntentions is what is known of a destination after an answer that may lack some.
func mergeIntentions(old, now *catalog.Destination) *catalog.Destination {
	if old == now || old == nil || now == nil {
		return cmp.Or(now, old)
	}
	all := merge(old.Intentions, now.Intentions,
		func(i intention.Intention) intention.Source { return i.Source })
	return catalog.ByDestination(all)[0]
}
