package main

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/xds"
	"github.com/spf13/cobra"
)

// named is what a proxy goes by: people say its ID, that of its instance, or its service.
type named struct{ id, instance, service string }

// matching are those of all that a name means: the proxy with that ID, else the proxies of that
// instance, else those of that service.
func matching[T any](all iter.Seq[T], name string, of func(T) named) (out []T) {
	least := 3
	for x := range all {
		n := of(x)
		rank := slices.Index([]string{n.id, n.instance, n.service}, name)
		if rank < 0 || rank > least {
			continue
		}
		if rank < least {
			least, out = rank, nil
		}
		out = append(out, x)
	}
	return out
}

// candidates are texts for an error that a name does not mean one thing.
func candidates[T any](all []T, of func(T) named) string {
	var out []string
	for i, x := range all {
		if i == 10 {
			out = append(out, fmt.Sprintf("and %d more", len(all)-i))
			break
		}
		n := of(x)
		out = append(out, fmt.Sprintf("%s (instance %s)", n.id, n.instance))
	}
	return strings.Join(out, ", ")
}

func namedProxy(p *catalog.Proxy) named {
	return named{string(p.ID), p.Instance, p.Service.String()}
}

func namedStatus(p xds.ProxyStatus) named { return named{string(p.ID), p.Instance, p.Service} }

// nearest adds to a text about a name that means nothing the one that was probably meant.
func nearest[T any](all iter.Seq[T], name string, of func(T) named) string {
	var known []string
	for x := range all {
		n := of(x)
		known = append(known, n.service, n.instance, n.id)
	}
	if near := definition.Nearest(name, known); near != "" {
		return fmt.Sprintf(": did you mean %q?", near)
	}
	return ": `sallyport status` lists the proxies"
}

// nearestService adds to a text about a service that is not known the one that was probably meant.
func nearestService(v *catalog.View, name string) string {
	var known []string
	for p := range v.Proxies() {
		known = append(known, p.Service.Service)
	}
	for r := range v.Registrations() {
		known = append(known, r.Service.Service)
	}
	if near := definition.Nearest(name, known); near != "" && near != name {
		return fmt.Sprintf(": did you mean %q?", near)
	}
	return ""
}

// defines reports whether v has a sidecar or an application of a service, whose name same compares. That v
// has the service says less: an intention that names it is enough.
func defines(v *catalog.View, same func(identity.Name) bool) bool {
	for p := range v.Proxies() {
		if same(p.Service) {
			return true
		}
	}
	for r := range v.Registrations() {
		if same(r.Service) {
			return true
		}
	}
	return false
}

// serviceOf is the service that a name means: its own, or that of the proxy or instance which has
// the name where no service has.
func serviceOf(v *catalog.View, name string) identity.Name {
	n := identity.NewName(name)
	if v == nil || v.Service(n) != nil {
		return n
	}
	if found := matching(v.Proxies(), name, namedProxy); len(found) > 0 {
		return found[0].Service // IDs are unique, and so are instances' services
	}
	if r := v.Registration(name); r != nil {
		return r.Service
	}
	return n
}

// completeTimeout bounds how long a shell waits.
const completeTimeout = time.Second

// completing makes a completion of arguments out of names of the running control plane's proxies and applications,
// for the first most arguments.
func completing(o *clientOptions, most int, names func(named) []string) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completeTimeout)
		defer cancel()
		client, err := o.find()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := client.Status(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, n := range namedIn(s) {
			out = append(out, names(n)...)
		}
		slices.Sort(out)
		out = slices.DeleteFunc(slices.Compact(out), func(s string) bool { return s == "" })
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// The names that commands take, as completing wants them. What has no proxy has no ID of one.
func anyName(n named) []string     { return []string{n.service, n.instance, n.id} }
func serviceName(n named) []string { return []string{n.service} }
func proxyIDs(n named) []string    { return []string{n.id} }

// proxyNames are those of a proxy.
func proxyNames(n named) []string {
	if n.id == "" {
		return nil
	}
	return anyName(n)
}

// instanceNames are those of applications with a sidecar.
func instanceNames(n named) []string {
	if n.id == "" {
		return nil
	}
	return []string{n.instance}
}
