package consul

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// intentionAnswer is one intention as /v1/connect/intentions/match gives it.
type intentionAnswer struct {
	SourceNS, SourceName           string
	DestinationNS, DestinationName string
	SourcePartition                string
	DestinationPartition           string
	SourcePeer                     string
	SourceSamenessGroup            string
	SourceType                     string
	Action                         string
	Permissions                    []json.RawMessage
	JWT                            json.RawMessage
}

// silentKeys are those of an intention that say nothing about who is allowed what.
var silentKeys = []string{
	"ID", "Description", "DefaultAddr", "DefaultPort", "Meta", "Precedence", "CreatedAt", "UpdatedAt", "Hash", "CreateIndex", "ModifyIndex",
	"RaftIndex", "LegacyID", "LegacyMeta", "LegacyCreateTime", "LegacyUpdateTime",
}

// spokenKeys are those of intentionAnswer.
var spokenKeys = []string{
	"SourceNS", "SourceName", "DestinationNS", "DestinationName", "SourcePartition", "DestinationPartition", "SourcePeer", "SourceSamenessGroup",
	"SourceType", "Action", "Permissions", "JWT",
}

// decodeIntentions reads the intentions of one destination. An answer without that destination is none: a destination of which nothing is
// said has an empty list.
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

// decodeIntention reads one intention. ok is false if it is about names that no identity can have. What is not understood of it makes it deny its source.
func decodeIntention(raw json.RawMessage) (i intention.Intention, ok bool, err error) {
	a, err := decodeJSON[intentionAnswer](raw)
	if err != nil {
		return i, false, err
	}
	keys, err := decodeJSON[map[string]json.RawMessage](raw)
	if err != nil {
		return i, false, err
	}
	i = intention.Intention{
		Source:      intention.Source{Peer: a.SourcePeer, Name: nameOf(a.SourcePartition, a.SourceNS, a.SourceName)},
		Destination: nameOf(a.DestinationPartition, a.DestinationNS, a.DestinationName),
		Origin:      "service-intentions/" + a.DestinationName,
	}
	if !pattern(i.Source.Name) || !pattern(i.Destination) {
		return i, false, nil
	}
	switch {
	case a.SourceSamenessGroup != "":
		i.Unsupported = "sameness group " + a.SourceSamenessGroup
	case a.SourceType != "" && a.SourceType != "consul":
		i.Unsupported = "source type " + a.SourceType
	case len(a.Permissions) > 0:
		i.Unsupported = "L7 permissions"
	case !isEmpty(a.JWT):
		i.Unsupported = "JWT"
	case a.Action == "allow":
		i.Action = intention.Allow
	case a.Action == "deny":
	default:
		i.Unsupported = fmt.Sprintf("action %.20q", a.Action)
	}
	if key := unknownKey(keys); key != "" && i.Unsupported == "" {
		i.Unsupported = fmt.Sprintf("field %.60q", key)
	}
	return i, true, nil
}

// nameOf fills in what Consul leaves out. A namespace that is a wildcard holds the default one too, the only one there is.
func nameOf(partition, namespace, service string) identity.Name {
	n := identity.NewName(service)
	if partition != "" {
		n.Partition = partition
	}
	if namespace != "" && namespace != identity.Wildcard {
		n.Namespace = namespace
	}
	return n
}

// pattern reports whether n can be, or stand for, an identity's.
func pattern(n identity.Name) bool {
	if n.IsWildcard() {
		n.Service = "any"
	}
	return n.Check() == nil
}

// unknownKey is the first key that says something and that nobody here knows.
func unknownKey(keys map[string]json.RawMessage) string {
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		known := func(s string) bool { return strings.EqualFold(s, k) }
		if !slices.ContainsFunc(silentKeys, known) && !slices.ContainsFunc(spokenKeys, known) && !isEmpty(keys[k]) {
			return k
		}
	}
	return ""
}

// isEmpty reports whether a value says nothing.
func isEmpty(raw json.RawMessage) bool {
	switch strings.TrimSpace(string(raw)) {
	case "", "null", `""`, "[]", "{}", "false", "0":
		return true
	}
	return false
}

// mergeIntentions is what is known after an answer that may lack some.
func mergeIntentions(old, now []intention.Intention) []intention.Intention {
	type key struct {
		source      intention.Source
		destination identity.Name
	}
	return merge(old, now, func(i intention.Intention) key { return key{i.Source, i.Destination} })
}
