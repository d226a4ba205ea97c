package api

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// intentionAnswer is an intention as Consul's API has it. The names are Consul's, for JSON and for filters.
type intentionAnswer struct {
	ID                   string `json:",omitempty"` // that of the API before config entries; never set
	Description          string `json:",omitempty"`
	SourceNS             string
	SourceName           string
	DestinationNS        string
	DestinationName      string
	SourcePartition      string `json:",omitempty"`
	DestinationPartition string `json:",omitempty"`
	SourcePeer           string `json:",omitempty"`
	SourceSamenessGroup  string `json:",omitempty"`
	SourceType           string
	Action               string             `json:",omitempty"`
	Permissions          []permissionAnswer `json:",omitempty" bexpr:"-"`
	JWT                  *jwtAnswer         `json:",omitempty" bexpr:"-"`
	Meta                 map[string]string  `json:",omitempty"`
	Precedence           int
	CreateIndex          uint64 `bexpr:"-"`
	ModifyIndex          uint64 `bexpr:"-"`
}

// The endpoints below /v1/connect/intentions. They say what is in force, which may be less than what is written.
var (
	intentionList = answering{value: listIntentions, depends: onIntentions}
	intentionByID = answering{value: noIntentionByID, depends: onNothing}
	intentionPair = answering{value: exactIntention, depends: onPair}
	// intentionCheck is answered by the mesh's default where no intention decides, not by that of ACLs.
	intentionCheck = answering{value: checkIntention, depends: onDecision}
	intentionMatch = answering{value: matchIntentions, depends: onMatch}
)

func onNothing(*catalog.View, *ask) []any { return nil }

func onIntentions(v *catalog.View, _ *ask) []any {
	r := v.Revision()
	return []any{r.Intentions, r.Entries}
}

// onSaid are those of what is said about a destination.
func onSaid(v *catalog.View, on []any, name identity.Name) []any {
	for _, d := range v.About(name) {
		on = append(on, d)
	}
	return append(on, v.Entry(catalog.IntentionsKind, name.Service))
}

func onPair(v *catalog.View, a *ask) []any {
	dst, err := a.destination()
	if err != nil {
		return nil
	}
	return onSaid(v, nil, dst)
}

// onMatch are those of the destinations that are asked for; of sources all counts.
func onMatch(v *catalog.View, a *ask) []any {
	if a.query.Get("by") != "destination" {
		return onIntentions(v, a)
	}
	on := onSaid(v, nil, identity.NewName(identity.Wildcard))
	for _, name := range a.query["name"][:min(len(a.query["name"]), maxMatched)] {
		if c, err := parseComponent(name, false); err == nil {
			on = onSaid(v, on, identity.NewName(c.Service))
		}
	}
	return on
}

// onDecision is the policy alone: all that decides is in it.
func onDecision(v *catalog.View, a *ask) []any {
	if dst, err := a.destination(); err == nil {
		if p := v.Policy(dst); p != nil {
			return []any{p, v.Mesh()}
		}
	}
	r := v.Revision()
	return []any{r.Intentions, r.Registered, v.Mesh()}
}

// concerned reports whether the asker may know of an intention: one of a service whose it is, on either side, or about all
// destinations.
func (a *ask) concerned(i intention.Intention) bool {
	return a.caller.sees(i.Source.Name) || a.caller.sees(i.Destination) || i.Destination.IsWildcard()
}

func denied() error { return failed(http.StatusForbidden, "Permission denied") }

// teller tells of intentions that are in force.
type teller struct {
	v    *catalog.View
	said map[identity.Name]saidOf // what is said about a destination beside who may
}

type saidOf struct {
	stamp        catalog.Stamp
	meta         map[string]string
	descriptions map[intention.Source]string
}

func (t *teller) of(destination identity.Name) saidOf {
	s, ok := t.said[destination]
	if ok {
		return s
	}
	s.stamp = t.v.StampOfEntry(catalog.IntentionsKind, destination.Service)
	if e := t.v.Entry(catalog.IntentionsKind, destination.Service); e != nil {
		s.meta, s.descriptions = e.Meta, make(map[intention.Source]string)
		for _, src := range e.Sources {
			if src.Description != "" {
				s.descriptions[src.Source] = src.Description
			}
		}
	}
	if t.said == nil {
		t.said = map[identity.Name]saidOf{}
	}
	t.said[destination] = s
	return s
}

// sourceName is the service, or the SPIFFE ID of a workload of another trust domain, which Consul does not have.
func sourceName(s intention.Source) string { return cmp.Or(string(s.ID), s.Service) }

func (t *teller) tell(i intention.Intention) intentionAnswer {
	said := t.of(i.Destination)
	action, permissions := effectOf(&i)
	return intentionAnswer{
		SourceNS: i.Source.Namespace, SourceName: sourceName(i.Source), SourcePeer: i.Source.Peer,
		DestinationNS: i.Destination.Namespace, DestinationName: i.Destination.Service,
		SourceType: "consul", Action: action, Permissions: permissions, JWT: tokensAnswer(i.JWT.List()), Precedence: i.Precedence(), Description: said.descriptions[i.Source], Meta: said.meta,
		CreateIndex: said.stamp.Created, ModifyIndex: said.stamp.Modified,
	}
}

// answersOf are intentions in the order in which Consul lists them.
func answersOf(v *catalog.View, all []intention.Intention) []intentionAnswer {
	slices.SortStableFunc(all, intention.Compare)
	t := teller{v: v}
	out := make([]intentionAnswer, len(all))
	for n, i := range all {
		out[n] = t.tell(i)
	}
	return out
}

func listIntentions(v *catalog.View, a *ask) (any, error) {
	var all []intention.Intention
	for d := range v.Intentions() {
		for _, i := range d.Intentions {
			if a.concerned(i) {
				all = append(all, i)
			}
		}
	}
	return filtered(a.filter(), answersOf(v, all))
}

// noIntentionByID answers for the intentions of the API before config entries, of which there are none.
func noIntentionByID(_ *catalog.View, a *ask) (any, error) {
	if a.name != "" && len(a.name) != 36 {
		return nil, failed(http.StatusBadRequest, "failed config entry lookup: index error: UUID must be 36 characters")
	}
	return nil, failed(http.StatusNotFound, "Intention not found")
}

// exactIntention is the one whose source and destination are named, never one about all.
func exactIntention(v *catalog.View, a *ask) (any, error) {
	src, dst, err := a.pair(true)
	switch {
	case err != nil:
		return nil, err
	case src.Namespace != identity.Default:
		return nil, broken("Invalid SourceNS %q: Namespaces is a Consul Enterprise feature", src.Namespace)
	case dst.Namespace != identity.Default:
		return nil, broken("Invalid DestinationNS %q: Namespaces is a Consul Enterprise feature", dst.Namespace)
	case src.Service == "":
		return nil, broken("1 error occurred:\n\t* SourceName is missing\n\n")
	case dst.Service == "":
		return nil, broken("1 error occurred:\n\t* DestinationName is missing\n\n")
	}
	if !a.caller.sees(identity.NewName(src.Service)) && !a.caller.sees(identity.NewName(dst.Service)) {
		return nil, denied()
	}
	for _, i := range about(v, identity.NewName(dst.Service)) {
		if i.Source.Service == src.Service && i.Source.Peer == src.Peer {
			return (&teller{v: v}).tell(i), nil
		}
	}
	return nil, failed(http.StatusNotFound, "Intention not found")
}

// about are the intentions in force about a destination alone; about all, if it is the wildcard. Of several entries for names that
// differ by letter case alone they are what comes of all of them.
func about(v *catalog.View, destination identity.Name) []intention.Intention {
	said := v.About(destination)
	switch len(said) {
	case 0:
		return nil
	case 1:
		return said[0].Intentions
	}
	if p := v.Policy(destination); p != nil {
		return p.Own()
	}
	var all []intention.Intention
	for _, d := range said {
		all = append(all, d.Intentions...)
	}
	return all
}

type checkAnswer struct{ Allowed bool }

func checkIntention(v *catalog.View, a *ask) (any, error) {
	src, dst, err := a.pair(false)
	switch {
	case err != nil:
		return nil, err
	case src.Namespace != identity.Default:
		return nil, broken("Invalid source namespace %q: Namespaces is a Consul Enterprise feature", src.Namespace)
	case dst.Namespace != identity.Default:
		return nil, broken("Invalid destination namespace %q: Namespaces is a Consul Enterprise feature", dst.Namespace)
	}
	if t := a.query.Get("source-type"); t != "" && t != "consul" {
		return nil, broken("unsupported SourceType: %q", t)
	}
	source, destination := identity.NewName(src.Service), identity.NewName(dst.Service)
	if !a.caller.sees(source) && !a.caller.sees(destination) {
		return nil, denied()
	}
	return checkAnswer{v.Decide(v.Identity(source), destination).Allowed()}, nil
}

// maxMatched bounds the names that are asked for at a time. Consul has no bound; its own clients ask for one.
const maxMatched = 64

// matchIntentions are those about services as sources or as destinations, by what was asked.
func matchIntentions(v *catalog.View, a *ask) (any, error) {
	by := a.query["by"]
	if len(by) != 1 {
		return nil, missing("by")
	}
	if by[0] != "source" && by[0] != "destination" {
		return nil, broken("'by' parameter must be one of 'source' or 'destination'")
	}
	names := a.query["name"]
	switch {
	case len(names) == 0:
		return nil, missing("name")
	case len(names) > maxMatched:
		return nil, failed(http.StatusBadRequest, "%d names are asked for, and %d are the most at a time: ask for the others apart", len(names), maxMatched)
	}
	parsed := make([]component, len(names))
	for n, s := range names {
		c, err := parseComponent(s, false)
		if err != nil {
			return nil, broken("name %q is invalid: %s", s, err)
		}
		parsed[n] = c
	}
	out := make(map[string][]intentionAnswer, len(names))
	for n, c := range parsed {
		switch {
		case c.Namespace != identity.Default:
			return nil, broken("Invalid match entry namespace %q: Namespaces is a Consul Enterprise feature", c.Namespace)
		case c.Partition != identity.Default:
			return nil, broken("Invalid match entry partition %q: Partitions is a Consul Enterprise feature", c.Partition)
		case !a.caller.sees(identity.NewName(c.Service)):
			return nil, denied()
		}
		of := bySource
		if by[0] == "destination" {
			of = byDestination
		}
		out[names[n]] = answersOf(v, of(v, c.Service))
	}
	return out, nil
}

// byDestination are the intentions that may decide about a destination.
func byDestination(v *catalog.View, service string) []intention.Intention {
	name, all := identity.NewName(service), identity.NewName(identity.Wildcard)
	list := slices.Clone(about(v, all))
	if service != "" && service != identity.Wildcard {
		list = append(list, about(v, name)...)
	}
	return list
}

// bySource are the intentions that may decide about a source. In sources letter case counts.
func bySource(v *catalog.View, service string) (list []intention.Intention) {
	for d := range v.Intentions() {
		for _, i := range d.Intentions {
			if i.Source.Peer == "" && (i.Source.Service == service || i.Source.IsWildcard()) {
				list = append(list, i)
			}
		}
	}
	return list
}

func missing(parameter string) error {
	return broken("required query parameter '%s' not set", parameter)
}

// component is a service as it is written in a parameter: name, namespace/name or partition/namespace/name.
type component struct {
	identity.Name
	Peer string
}

// componentError is what is wrong with a component.
type componentError string

func (e componentError) Error() string { return string(e) }

// parseComponent reads a component, if peers may be named also peer:name/service.
func parseComponent(s string, peers bool) (c component, err error) {
	parts := strings.Split(s, "/")
	c.Name = identity.NewName("")
	if peer, ok := strings.CutPrefix(parts[0], "peer:"); ok {
		switch {
		case !peers:
			return c, componentError("cannot specify a peer here")
		case len(parts) < 2:
			return c, componentError("need to specify the service name as well")
		}
		c.Peer, parts = peer, parts[1:]
	}
	switch len(parts) {
	case 1:
		c.Service = parts[0]
	case 2:
		c.Namespace, c.Service = parts[0], parts[1]
	case 3:
		c.Partition, c.Namespace, c.Service = parts[0], parts[1], parts[2]
	default:
		return c, componentError("input can contain at most two '/'")
	}
	return c, nil
}

// destination is that which is asked about.
func (a *ask) destination() (identity.Name, error) {
	const parameter = "destination"
	if len(a.query[parameter]) != 1 {
		return identity.Name{}, missing(parameter)
	}
	c, err := parseComponent(a.query.Get(parameter), false)
	return identity.NewName(c.Service), err
}

// pair is the source and the destination that are asked for.
func (a *ask) pair(peers bool) (source, destination component, err error) {
	both := [2]component{}
	for n, parameter := range []string{"source", "destination"} {
		given := a.query[parameter]
		if len(given) != 1 {
			return source, destination, missing(parameter)
		}
		c, err := parseComponent(given[0], peers && n == 0)
		if err != nil {
			return source, destination, broken("%s %q is invalid: %s", parameter, given[0], err)
		}
		both[n] = c
	}
	return both[0], both[1], nil
}
