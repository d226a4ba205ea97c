package consul

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// decodeIntentions reads the intentions of one destination. An answer without that destination is
// none: a destination of which nothing is said has an empty list.
func decodeIntentions(destination string) func([]byte) ([]intention.Intention, error) {
	return func(body []byte) ([]intention.Intention, error) {
		answer, err := decodeJSON[map[string][]json.RawMessage](body)
		if err != nil {
			return nil, err
		}
		list, ok := answer[destination]
		if !ok {
			return nil, fmt.Errorf("it says nothing of the destination %.60q", destination)
		}
		out := make([]intention.Intention, 0, len(list))
		for _, raw := range list {
			i, ok, err := decodeIntention(raw)
			if err != nil {
				return nil, err
			}
			if ok && (i.Destination.Service == destination || i.Destination.IsWildcard()) {
				out = append(out, i)
			}
		}
		return out, nil
	}
}

// decodeIntention reads one intention. ok is false if it is about names that no identity can have.
// What is not understood of it makes it deny its source.
func decodeIntention(raw json.RawMessage) (i intention.Intention, ok bool, err error) {
	n, err := decodeJSON[definition.Node](raw)
	if err != nil {
		return i, false, err
	}
	if n.Kind != definition.Mapping {
		return i, false, errors.New("it is no intention")
	}
	var unsupported string
	r := definition.Reader{Lenient: true, Report: func(m definition.Mistake) {
		text := m.Text
		if m.Field != nil {
			text = m.Field.Key
			if v := m.Field.Value; v.Kind == definition.Text {
				text += fmt.Sprintf(" %.60q", v.Text)
			}
		}
		unsupported = cmp.Or(unsupported, text, m.Text) // a key may be empty
	}}
	d := r.Decoder(&n, "intention")
	destination, known := d.ServiceName("DestinationName", "DestinationNS", "DestinationPartition")
	i, ok = d.Intention()
	i.Destination, i.Unsupported, i.Origin = destination, unsupported, "service-intentions/"+destination.Service
	if unsupported != "" {
		i.Action = intention.Deny
	}
	return i, ok && known, nil
}

// mergeIntentions is what is known after an answer that may lack some.
func mergeIntentions(old, now []intention.Intention) []intention.Intention {
	type key struct {
		source      intention.Source
		destination identity.Name
	}
	return merge(old, now, func(i intention.Intention) key { return key{i.Source, i.Destination} })
}
