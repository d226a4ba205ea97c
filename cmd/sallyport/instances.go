package main

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
)

// instancesOf are the applications of v that are known without a sidecar, and those that are native, sorted by ID.
func instancesOf(v *catalog.View) (out []admin.Instance) {
	for r := range v.Registrations() {
		if r.Native || !hasSidecar(v, r) {
			out = append(out, describeInstance(r))
		}
	}
	return out
}

func describeInstance(r *catalog.Registration) admin.Instance {
	return admin.Instance{ID: r.ID, Service: r.Service.String(), Address: instanceAddress(r), Native: r.Native, Status: r.Status, Origin: r.Origin}
}

// instanceDetail is all that v says of the application of that registration.
func instanceDetail(v *catalog.View, id string) (admin.InstanceDetail, error) {
	var r *catalog.Registration
	if v != nil {
		r = v.Registration(id)
	}
	if r == nil {
		return admin.InstanceDetail{}, fmt.Errorf("instance %q: %w in the catalog: `sallyport status` lists those without a sidecar", id, admin.ErrUnknown)
	}
	out := admin.InstanceDetail{Instance: describeInstance(r), Identity: v.Identity(r.Service).String(), Rules: describePolicy(v, v.Policy(r.Service))}
	for p := range v.Proxies() {
		if slices.ContainsFunc(p.Upstreams, func(u catalog.Upstream) bool {
			return u.Destination == r.Service && (u.Datacenter == "" || u.Datacenter == v.Mesh().Datacenter)
		}) {
			out.DialledBy = append(out.DialledBy, string(p.ID))
		}
	}
	return out, nil
}

// printInstance prints all that is known of one.
func printInstance(w io.Writer, p painter, d admin.InstanceDetail) {
	title := func(text string) { fmt.Fprintln(w, "\n"+p.paint(bold, text)) }
	line := func(format string, args ...any) { fmt.Fprintln(w, wrap("  ", fmt.Sprintf(format, args...), 6)) }
	kind := "an application without a sidecar"
	if d.Native {
		kind = "a native application"
	}
	title(d.ID + ": " + kind)
	line("service %s, defined at %s", d.Service, d.Origin)
	line("identity %s", d.Identity)
	address := cmp.Or(d.Address, "says no address: nobody can dial it")
	if d.Native {
		line("address %s, checks %s", address, cmp.Or(d.Status, "not known here"))
		if onSocket(d.Instance) {
			line("dialled by no sidecar, as those dial ports and it is on a socket: register it with a port for that")
		} else {
			line("dialled by %s", cmp.Or(strings.Join(d.DialledBy, ", "), "no sidecar"))
		}
	} else {
		line("address %s: no sidecar dials it, as it is not native", address)
	}
	title("Who may connect, if the application asks")
	for _, r := range d.Rules {
		line("%s", ruleInWords(r))
	}
}

// judgeNatives are the native applications that sidecars do not dial.
func judgeNatives(s admin.Status) (out []finding, natives int) {
	for _, i := range s.Instances {
		if !i.Native {
			continue
		}
		natives++
		if i.Status == "critical" {
			out = append(out, finding{Text: fmt.Sprintf("%s, of %s: its checks are critical, so no sidecar dials it", i.ID, i.Service), Remedy: "mend the application, or its status at " + i.Origin})
		}
	}
	return out, natives
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
	case r.Socket != "" && r.Port == 0:
		return r.Socket
	case r.Port == 0:
		return r.Address
	}
	return net.JoinHostPort(r.Address, strconv.Itoa(int(r.Port)))
}

// onSocket reports whether an application listens on a Unix socket alone.
func onSocket(i admin.Instance) bool { return strings.HasPrefix(i.Address, "/") }

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
			if onSocket(i) {
				text += " (on a socket, where no sidecar dials it)"
			}
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
