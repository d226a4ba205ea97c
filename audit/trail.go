package audit

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

const (
	// maxNames is how many names a line has; others are counted.
	maxNames = 20
	// maxLines is how many lines of a kind a change of the catalog has; others are counted.
	maxLines = 100
)

// Trail follows the catalog. A Trail is used by one goroutine.
type Trail struct {
	// Logger gets the lines. Required.
	Logger *slog.Logger
	// Ready reports whether the source has said all that it has; nil: always. What is published before
	// is where the trail begins, and no change.
	Ready func() bool

	begun bool
}

// Changed logs what is other in next than in old, which came before.
func (t *Trail) Changed(old, next *catalog.View) {
	if !t.begun {
		if t.begun = t.Ready == nil || t.Ready(); t.begun {
			proxies := 0
			for range next.Proxies() {
				proxies++
			}
			t.Logger.Info("audit begins", "change", next.Change().Number, "proxies", proxies, "intentions", next.IntentionCount())
		}
		return
	}
	t.intentions(old, next)
	t.registrations(old, next)
}

func (t *Trail) intentions(old, next *catalog.View) {
	lines := 0
	for c := range next.PolicyChanges(old) {
		gained, lost := difference(c.Old, c.New)
		if len(gained)+len(lost) == 0 && sameRules(c.Before, c.After) {
			continue // lines of a file moved, or what holds for all changed and is overruled here
		}
		if lines++; lines > maxLines {
			continue
		}
		fields := []any{"audit", "intention", "change", next.Change().Number, "destination", c.Destination.String()}
		if len(gained) > 0 {
			fields = append(fields, "gained", names(gained))
		}
		if len(lost) > 0 {
			fields = append(fields, "lost", names(lost))
		}
		if at := origin(c, gained, lost); at != "" {
			fields = append(fields, "origin", at)
		}
		t.Logger.Info("intentions changed", fields...)
	}
	if more := lines - maxLines; more > 0 {
		t.Logger.Info("intentions changed of more destinations", "audit", "intention", "change", next.Change().Number, "count", more)
	}
}

func (t *Trail) registrations(old, next *catalog.View) {
	lines := 0
	note := func(how string, p *catalog.Proxy) {
		if lines++; lines > maxLines {
			return
		}
		fields := []any{"audit", "registration", "change", next.Change().Number, "proxy", p.ID, "service", p.Service.String(), "status", how}
		if p.Origin != "" {
			fields = append(fields, "origin", p.Origin)
		}
		t.Logger.Info("registration", fields...)
	}
	instance := func(how string, r *catalog.Registration) {
		if lines++; lines > maxLines {
			return
		}
		fields := []any{"audit", "registration", "change", next.Change().Number, "instance", r.ID, "service", r.Service.String(), "status", how}
		if r.Origin != "" {
			fields = append(fields, "origin", r.Origin)
		}
		t.Logger.Info("registration", fields...)
	}
	for r := range next.Registrations() {
		switch before := old.Registration(r.ID); {
		case before == r || !shown(before) && !shown(r):
		case !shown(before):
			instance("added", r)
		case !shown(r):
			instance("removed", before)
		case of(before) != of(r):
			instance("changed", r)
		}
	}
	for r := range old.Registrations() {
		if shown(r) && next.Registration(r.ID) == nil {
			instance("removed", r)
		}
	}
	for p := range next.Proxies() {
		switch before := old.Proxy(p.ID); {
		case before == nil:
			note("added", p)
		case before.Proxy != p && !before.Proxy.SaysAs(p):
			note("changed", p)
		}
	}
	for p := range old.Proxies() {
		if next.Proxy(p.ID) == nil {
			note("removed", p)
		}
	}
	if more := lines - maxLines; more > 0 {
		t.Logger.Info("more registrations", "audit", "registration", "change", next.Change().Number, "count", more)
	}
}

// shown reports whether a registration is of an application that takes part in the mesh without a sidecar.
func shown(r *catalog.Registration) bool { return r != nil && r.ShowsItself() }

// application is what a registration says of an application without a sidecar: whose it is, where it is, and which processes it is.
type application struct {
	service                          identity.Name
	native                           bool
	selectors, host, address, socket string
	port                             uint16
}

func of(r *catalog.Registration) application {
	return application{r.Service, r.Native, r.Meta[catalog.MetaSelectors], r.Host, r.Address, r.Socket, r.Port}
}

// difference is who may reach the destination by next and not by old, and the other way round, sorted.
// "*" is all whom no list names.
func difference(old, next *intention.Policy) (gained, lost []string) {
	before, after := actions(old), actions(next)
	all := map[string]bool{}
	for name := range before {
		all[name] = true
	}
	for name := range after {
		all[name] = true
	}
	action := func(of map[string]intention.Action, name string) intention.Action {
		if a, ok := of[name]; ok {
			return a
		}
		return of[identity.Wildcard]
	}
	rest := [2]intention.Action{before[identity.Wildcard], after[identity.Wildcard]}
	for name := range all {
		is := [2]intention.Action{action(before, name), action(after, name)}
		switch {
		case name != identity.Wildcard && is == rest: // as all whom no list names
		case is[0] == intention.Deny && is[1] == intention.Allow:
			gained = append(gained, name)
		case is[0] == intention.Allow && is[1] == intention.Deny:
			lost = append(lost, name)
		}
	}
	was, is := slices.Collect(old.Foreign()), slices.Collect(next.Foreign())
	gained, lost = append(gained, missing(was, is)...), append(lost, missing(is, was)...)
	slices.Sort(gained)
	slices.Sort(lost)
	return gained, lost
}

// missing are the workloads of other trust domains in those that are not in from.
func missing(from, those []identity.ID) (ids []string) {
	for _, id := range those {
		if !slices.Contains(from, id) {
			ids = append(ids, string(id))
		}
	}
	return ids
}

// actions are a policy's by the source's service, with that of all others under the wildcard.
func actions(p *intention.Policy) map[string]intention.Action {
	all := map[string]intention.Action{identity.Wildcard: p.Rest()}
	for name, action := range p.Exact() {
		all[name.Service] = action
	}
	return all
}

// sameRules reports whether a and b say the same, wherever it is written.
func sameRules(a, b []intention.Intention) bool {
	return slices.EqualFunc(a, b, func(a, b intention.Intention) bool {
		a.Origin, b.Origin = "", ""
		return a == b
	})
}

// origin is where the first of those who gained or lost access is named, now or, where he is named no
// more, before; where nobody is, the first place that names anybody.
func origin(c catalog.PolicyChange, gained, lost []string) string {
	for _, said := range [][]intention.Intention{c.After, c.Before} {
		for _, name := range slices.Concat(gained, lost) {
			for _, i := range said {
				if (i.Source.Service == name || string(i.Source.ID) == name) && i.Origin != "" {
					return i.Origin
				}
			}
		}
	}
	for _, i := range slices.Concat(c.After, c.Before) {
		if i.Origin != "" {
			return i.Origin
		}
	}
	return ""
}

func names(all []string) string {
	if more := len(all) - maxNames; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:maxNames], ", "), more)
	}
	return strings.Join(all, ", ")
}
