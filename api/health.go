package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// The endpoints below /v1/health. All that is registered is on one node.
var (
	healthService = answering{value: instancesOf(registeredUnder), depends: onGroup}
	healthConnect = answering{value: instancesOf(connected), depends: onGroup}
	healthState   = answering{value: checksInState, depends: onRegistered}
	healthChecks  = answering{value: checksOfService, depends: onGroup}
)

// onGroup is all that is registered under the name that is asked for.
func onGroup(v *catalog.View, a *ask) []any {
	g := v.Group(identity.NewName(a.name))
	on := make([]any, 0, 1+len(g.Registrations)+len(g.Named)+len(g.Sidecars))
	on = append(on, v.Mesh())
	for _, r := range g.Registrations {
		on = append(on, r)
	}
	for _, s := range g.Named {
		on = append(on, s)
	}
	for _, s := range g.Sidecars {
		on = append(on, s)
	}
	return on
}

func onRegistered(v *catalog.View, _ *ask) []any {
	return []any{v.Mesh(), v.Revision().Registered}
}

// instance is a registration; of a sidecar the sidecar is set, too.
type instance struct {
	*catalog.Registration
	sidecar *catalog.Sidecar
}

// registeredUnder is what is registered under a name, sidecars too.
func registeredUnder(g catalog.Group) []instance {
	return sortedInstances(g.Registrations, g.Named)
}

// connected is by what a service can be dialled in the mesh: its sidecars, and instances that speak for themselves.
func connected(g catalog.Group) []instance {
	var native []*catalog.Registration
	for _, r := range g.Registrations {
		if r.Native {
			native = append(native, r)
		}
	}
	return sortedInstances(native, g.Sidecars)
}

// sortedInstances are sorted by ID without regard to letter case, which is Consul's order.
func sortedInstances(registrations []*catalog.Registration, sidecars []*catalog.Sidecar) []instance {
	out := make([]instance, 0, len(registrations)+len(sidecars))
	for _, r := range registrations {
		out = append(out, instance{r, nil})
	}
	for _, s := range sidecars {
		out = append(out, instance{&s.Registration, s})
	}
	slices.SortStableFunc(out, func(a, b instance) int { return strings.Compare(strings.ToLower(a.ID), strings.ToLower(b.ID)) })
	return out
}

// healthAnswer is an instance with its node and checks.
type healthAnswer struct {
	Node    *nodeAnswer
	Service *serviceAnswer
	Checks  []healthCheck
}

func instancesOf(of func(catalog.Group) []instance) func(*catalog.View, *ask) (any, error) {
	return func(v *catalog.View, a *ask) (any, error) {
		onlyPassing, err := a.flag("passing")
		if err != nil {
			return nil, err
		}
		if a.query.Get("peer") != "" && a.query.Get("sg") != "" {
			return nil, failed(http.StatusBadRequest, "peer-name and sameness-group are mutually exclusive")
		}
		if a.name == "" {
			return nil, failed(http.StatusBadRequest, "Missing service name")
		}
		out := []*healthAnswer{}
		n := a.node.answer(v)
		for _, i := range a.instances(v, of) {
			h := &healthAnswer{n, serviceOf(v, i.Registration, i.sidecar), append([]healthCheck{a.node.check()}, a.node.checksOf(v, i.Registration)...)}
			if !onlyPassing || !slices.ContainsFunc(h.Checks, func(c healthCheck) bool { return c.Status != passing }) {
				out = append(out, h)
			}
		}
		return filtered(a.filter(), out)
	}
}

// instances are those of the name that is asked for which have all tags that are asked for.
func (a *ask) instances(v *catalog.View, of func(catalog.Group) []instance) []instance {
	if a.elsewhere() {
		return nil
	}
	return slices.DeleteFunc(of(v.Group(identity.NewName(a.name))), func(i instance) bool {
		for _, tag := range a.query["tag"] {
			if !slices.ContainsFunc(i.Tags, func(t string) bool { return strings.EqualFold(t, tag) }) {
				return true
			}
		}
		return false
	})
}

// elsewhere reports whether what is asked for is on a node that is not there: one of another cluster, or one with metadata of its own.
func (a *ask) elsewhere() bool {
	if a.query.Get("peer") != "" || a.query.Get("sg") != "" {
		return true
	}
	for _, pair := range a.query["node-meta"] {
		key, value, _ := strings.Cut(pair, ":")
		if have, ok := a.node.meta()[key]; !ok || value != "" && have != value {
			return true
		}
	}
	return false
}

// flag is a parameter that is set by being there, or by its value.
func (a *ask) flag(name string) (bool, error) {
	values, ok := a.query[name]
	if !ok {
		return false, nil
	}
	if values[0] == "" {
		return true, nil
	}
	set, err := strconv.ParseBool(values[0])
	if err != nil {
		return false, failed(http.StatusBadRequest, "Invalid value for ?%s", name)
	}
	return set, nil
}

// allChecks are those of the node and of all registrations, sorted by ID without regard to letter case.
func allChecks(v *catalog.View, n *node) []healthCheck {
	out := []healthCheck{n.check()}
	for r := range v.Registrations() {
		out = append(out, n.checksOf(v, r)...)
	}
	for s := range v.Sidecars() {
		out = append(out, n.checksOf(v, &s.Registration)...)
	}
	slices.SortStableFunc(out, func(a, b healthCheck) int {
		return strings.Compare(strings.ToLower(a.CheckID), strings.ToLower(b.CheckID))
	})
	return out
}

func checksInState(v *catalog.View, a *ask) (any, error) {
	if a.name == "" {
		return nil, failed(http.StatusBadRequest, "Missing check state")
	}
	out := []healthCheck{}
	if !a.elsewhere() {
		out = slices.DeleteFunc(allChecks(v, a.node), func(c healthCheck) bool { return a.name != "any" && c.Status != a.name })
	}
	return filtered(a.filter(), out)
}

func checksOfService(v *catalog.View, a *ask) (any, error) {
	if a.name == "" {
		return nil, failed(http.StatusBadRequest, "Missing service name")
	}
	out := []healthCheck{}
	for _, i := range a.instances(v, registeredUnder) {
		out = append(out, a.node.checksOf(v, i.Registration)...)
	}
	slices.SortStableFunc(out, func(a, b healthCheck) int {
		return strings.Compare(strings.ToLower(a.CheckID), strings.ToLower(b.CheckID))
	})
	return filtered(a.filter(), out)
}
