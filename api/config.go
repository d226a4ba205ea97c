package api

import (
	"bytes"
	"encoding/json"
	"hash/fnv"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// configEntries answers /v1/config/:kind and /v1/config/:kind/:name; without a kind, all entries.
var configEntries = answering{value: readConfig, depends: func(v *catalog.View, a *ask) []any {
	kind, name, one := strings.Cut(a.name, "/")
	switch {
	case !one:
		return onIntentions(v, a)
	case kind == catalog.IntentionsKind:
		return onSaid(v, nil, identity.NewName(name))
	}
	return []any{v.Entry(kind, name)}
}}

// configKinds are the kinds that Consul knows. Of those that sallyport does not read there is never an entry.
var configKinds = []string{
	"api-gateway", "bound-api-gateway", "control-plane-request-limit", "exported-services", "file-system-certificate", "http-route", "ingress-gateway",
	"inline-certificate", "jwt-provider", "mesh", "proxy-defaults", "sameness-group", "service-defaults", catalog.IntentionsKind, "service-resolver",
	"service-router", "service-splitter", "tcp-route", "terminating-gateway",
}

// fillers are what Consul writes into each entry of a kind.
var fillers = map[string]string{
	"service-defaults": `"TransparentProxy":{},"MeshGateway":{},"Expose":{}`,
	"proxy-defaults":   `"TransparentProxy":{},"MeshGateway":{},"Expose":{},"AccessLogs":{}`,
	"mesh":             `"TransparentProxy":{"MeshDestinationsOnly":false}`,
}

func readConfig(v *catalog.View, a *ask) (any, error) {
	kind, name, one := strings.Cut(a.name, "/")
	if kind != "" && !slices.Contains(configKinds, kind) {
		return nil, broken("invalid config entry kind: %s", kind)
	}
	if one {
		e := v.Entry(kind, name)
		if e == nil {
			return nil, failed(http.StatusNotFound, "Config entry not found for %q / %q", kind, name)
		}
		if !a.maySee(e) {
			return nil, denied()
		}
		return entryAnswer(v, e)
	}
	if f := a.filter(); f != "" && kind != "" {
		return filteredConfig(v, kind, f)
	}
	return entryAnswers(v, func(e *catalog.Entry) bool { return (kind == "" || e.Kind == kind) && a.maySee(e) })
}

// maySee reports whether the asker may know of an entry: intentions are the affair of their destination.
func (a *ask) maySee(e *catalog.Entry) bool {
	return e.Kind != catalog.IntentionsKind || e.Name == identity.Wildcard || a.caller.sees(identity.NewName(e.Name))
}

func entryAnswers(v *catalog.View, wanted func(*catalog.Entry) bool) (any, error) {
	list := []*catalog.Entry{}
	for e := range v.Entries() {
		if wanted(e) {
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b *catalog.Entry) int { // Consul's order: that of its keys
		if a.Kind != b.Kind {
			return strings.Compare(a.Kind, b.Kind)
		}
		return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	out := make([]json.RawMessage, len(list))
	for i, e := range list {
		b, err := entryAnswer(v, e)
		if err != nil {
			return nil, err
		}
		out[i] = b
	}
	return out, nil
}

// filteredConfig is a list of those service-defaults of which an expression is true. Consul filters no other kind.
func filteredConfig(v *catalog.View, kind, expression string) (any, error) {
	if kind != "service-defaults" {
		return nil, broken("filtering not supported for config entry kind=%s", kind)
	}
	var all []*defaultsFields
	for e := range v.Entries() {
		if e.Kind == kind {
			d := &defaultsFields{}
			if err := json.Unmarshal([]byte(e.Fields), d); err != nil {
				return nil, broken("%s: %s", e.Origin, err)
			}
			d.Kind, d.Name, d.Meta, d.entry = e.Kind, e.Name, e.Meta, e
			all = append(all, d)
		}
	}
	some, err := filtered(expression, all)
	if err != nil {
		return nil, err
	}
	return entryAnswers(v, func(e *catalog.Entry) bool {
		return slices.ContainsFunc(some, func(d *defaultsFields) bool { return d.entry == e })
	})
}

// defaultsFields are the fields of service-defaults that can be asked for.
type defaultsFields struct {
	Kind, Name, Protocol      string
	Mode                      string
	MutualTLSMode             string
	ExternalSNI               string
	MaxInboundConnections     int
	LocalConnectTimeoutMs     int
	LocalRequestTimeoutMs     int
	BalanceInboundConnections string
	Meta                      map[string]string

	entry *catalog.Entry
}

// entryAnswer is an entry with its indexes. Its hash tells contents apart, and is no other's than sallyport's.
func entryAnswer(v *catalog.View, e *catalog.Entry) (json.RawMessage, error) {
	var b bytes.Buffer
	b.WriteString(`{"Kind":`)
	if err := put(&b, e.Kind); err != nil {
		return nil, err
	}
	if e.Kind != "mesh" {
		b.WriteString(`,"Name":`)
		if err := put(&b, e.Name); err != nil {
			return nil, err
		}
	}
	written := map[string]json.RawMessage{}
	if e.Fields != "" {
		if err := json.Unmarshal([]byte(e.Fields), &written); err != nil {
			return nil, broken("%s: %s", e.Origin, err)
		}
	}
	if f := fillers[e.Kind]; f != "" {
		filler := map[string]json.RawMessage{}
		if err := json.Unmarshal([]byte("{"+f+"}"), &filler); err != nil {
			return nil, err
		}
		for key, value := range filler {
			if written[key] == nil {
				written[key] = value
			}
		}
	}
	if e.Kind == catalog.IntentionsKind {
		sources, err := json.Marshal(sourcesOf(v, e))
		if err != nil {
			return nil, err
		}
		written["Sources"] = sources
	}
	if len(e.Meta) > 0 {
		meta, err := json.Marshal(e.Meta)
		if err != nil {
			return nil, err
		}
		written["Meta"] = meta
	}
	if fields, err := json.Marshal(written); err != nil {
		return nil, err
	} else if len(written) > 0 {
		b.WriteByte(',')
		b.Write(fields[1 : len(fields)-1])
	}
	h := fnv.New64a()
	_, _ = h.Write(b.Bytes()) // which never fails
	s := v.StampOfEntry(e.Kind, e.Name)
	b.WriteString(`,"Hash":`)
	if err := put(&b, h.Sum64()); err != nil {
		return nil, err
	}
	tail, err := json.Marshal(struct{ CreateIndex, ModifyIndex uint64 }{s.Created, s.Modified})
	if err != nil {
		return nil, err
	}
	b.WriteByte(',')
	b.Write(tail[1:])
	return b.Bytes(), nil
}

func put(b *bytes.Buffer, value any) error {
	j, err := json.Marshal(value)
	b.Write(j)
	return err
}

// sourceAnswer is a source of a service-intentions entry.
type sourceAnswer struct {
	Name        string
	Action      string             `json:",omitempty"`
	Permissions []permissionAnswer `json:",omitempty"`
	Precedence  int
	Type        string
	Description string `json:",omitempty"`
	Peer        string `json:",omitempty"`
}

// sourcesOf are the sources of a service-intentions entry with the actions that are in force, in the order in which they are written as
// far as precedence leaves it.
func sourcesOf(v *catalog.View, e *catalog.Entry) []sourceAnswer {
	inForce := map[intention.Source]intention.Intention{}
	for _, i := range about(v, identity.NewName(e.Name)) {
		inForce[i.Source] = i
	}
	out := make([]sourceAnswer, 0, len(inForce))
	add := func(i intention.Intention, description string) {
		action, permissions := effectOf(&i)
		out = append(out, sourceAnswer{
			Name: sourceName(i.Source), Peer: i.Source.Peer, Action: action, Permissions: permissions, Precedence: i.Precedence(), Type: "consul", Description: description,
		})
		delete(inForce, i.Source)
	}
	for _, s := range e.Sources {
		if i, ok := inForce[s.Source]; ok {
			add(i, s.Description)
		}
	}
	for _, i := range about(v, identity.NewName(e.Name)) { // what no source of the entry says, but is in force
		if _, ok := inForce[i.Source]; ok {
			add(i, "")
		}
	}
	slices.SortStableFunc(out, func(a, b sourceAnswer) int { return b.Precedence - a.Precedence })
	return out
}
