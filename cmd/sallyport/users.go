package main

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/workload"
)

// callersOf are the users of both interfaces by name.
func callersOf(asking []api.User, processes []workload.User) []admin.Caller {
	by := map[string]*admin.Caller{}
	of := func(name string) *admin.Caller {
		if by[name] == nil {
			by[name] = &admin.Caller{Name: name}
		}
		return by[name]
	}
	take := func(c *admin.Caller, socket string, connections int, leafs []*x509.Certificate) {
		if connections > 0 {
			c.By = append(c.By, socket)
		}
		c.Connections += connections
		for _, l := range leafs {
			n := admin.CallerLeaf{Service: serviceIn(nameIn(l)), Serial: colonHex(l.SerialNumber.Bytes()), Ends: l.NotAfter}
			if !slices.Contains(c.Leafs, n) {
				c.Leafs, c.Services = append(c.Leafs, n), append(c.Services, n.Service)
			}
		}
	}
	for _, u := range asking {
		c := of(u.Caller)
		take(c, "http.sock", u.Unix, u.Leafs)
		take(c, "TCP", u.TCP, nil)
		c.Waiting += u.Waiting
		for _, s := range u.Services {
			c.Services = append(c.Services, s.String())
		}
	}
	for _, u := range processes {
		c := of(u.Caller)
		take(c, "workload.sock", max(u.Connections, min(u.Streams, 1)), u.Leafs)
		c.Waiting += u.Streams
	}
	out := make([]admin.Caller, 0, len(by))
	for _, c := range by {
		slices.Sort(c.Services)
		c.Services = slices.Compact(c.Services)
		slices.SortFunc(c.Leafs, func(a, b admin.CallerLeaf) int {
			return cmp.Or(a.Ends.Compare(b.Ends), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Serial, b.Serial))
		})
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b admin.Caller) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// callersFor are those of all that act for one of some services.
func callersFor(all []admin.Caller, services []string) (out []admin.Caller) {
	for _, c := range all {
		if slices.ContainsFunc(c.Services, func(s string) bool { return slices.Contains(services, s) }) {
			out = append(out, c)
		}
	}
	return out
}

// mostCallers is how many are printed.
const mostCallers = 20

// printCallers prints a line for each.
func printCallers(w io.Writer, p painter, all []admin.Caller) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(w, "\n"+p.paint(bold, "Who asks for itself"))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  CALLER\tFOR\tBY\tCONNECTIONS\tWAITING\tLEAF")
	for _, c := range all[:min(len(all), mostCallers)] {
		leaf := "-"
		if len(c.Leafs) > 0 {
			leaf = short(time.Until(c.Leafs[0].Ends))
			if n := len(c.Leafs) - 1; n > 0 {
				leaf += " and " + strconv.Itoa(n) + " more"
			}
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%d\t%d\t%s\n", fit(c.Name, 24), fit(cmp.Or(strings.Join(c.Services, ","), "-"), 16), cmp.Or(strings.Join(c.By, ","), "-"), c.Connections, c.Waiting, leaf)
	}
	_ = t.Flush() // w keeps its error, as with all that is printed
	if more := len(all) - mostCallers; more > 0 {
		fmt.Fprintf(w, "  and %d more: --json has all\n", more)
	}
}
