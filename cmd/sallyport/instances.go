package main

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
)

// instancesOf are the applications of v that are known without a sidecar, and those that are native, sorted by ID.
func instancesOf(v *catalog.View) (out []admin.Instance) {
	for r := range v.Registrations() {
		if r.Native || !hasSidecar(v, r) {
			out = append(out, admin.Instance{
				ID: r.ID, Service: r.Service.String(), Address: instanceAddress(r), Native: r.Native, Status: r.Status, Origin: r.Origin,
			})
		}
	}
	return out
}

// hasSidecar reports whether some proxy takes connections in for r.
func hasSidecar(v *catalog.View, r *catalog.Registration) bool {
	for w := range v.Of(r.Service) {
		if w.Proxy.Instance == r.ID || w.Proxy.Instance == "" {
			return true
		}
	}
	return false
}

// instanceAddress is where r says that it listens; empty: nowhere.
func instanceAddress(r *catalog.Registration) string {
	switch {
	case r.Socket != "":
		return r.Socket
	case r.Port == 0:
		return r.Address
	}
	return net.JoinHostPort(r.Address, strconv.Itoa(int(r.Port)))
}

func namedInstance(i admin.Instance) named { return named{"", i.ID, i.Service} }

// mostInstances is how many are printed.
const mostInstances = 20

// printInstances prints a line for each.
func printInstances(w io.Writer, p painter, all []admin.Instance) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(w, "\n"+p.paint(bold, "Applications without a sidecar"))
	for _, i := range all[:min(len(all), mostInstances)] {
		text := i.ID
		if i.Service != i.ID {
			text += ", of " + i.Service
		}
		if i.Address != "" {
			text += ", at " + i.Address
		}
		if i.Native {
			text += ", native"
		}
		if i.Status != "" {
			text += ", " + i.Status
		}
		fmt.Fprintln(w, wrap("  ", text+" ("+i.Origin+")", 6))
	}
	if more := len(all) - mostInstances; more > 0 {
		fmt.Fprintf(w, "  and %d more: --json has all\n", more)
	}
}

// instancesNamed are those of all that a name means.
func instancesNamed(all []admin.Instance, name string) []admin.Instance {
	return matching(slices.Values(all), name, namedInstance)
}
