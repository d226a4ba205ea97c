package main

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/xds"
)

// printProxy prints all that is known of one proxy.
func printProxy(w io.Writer, p painter, d admin.Proxy) {
	s := d.Status
	title := func(text string) { fmt.Fprintln(w, "\n"+p.paint(bold, text)) }
	line := func(format string, args ...any) { fmt.Fprintln(w, wrap("  ", fmt.Sprintf(format, args...), 6)) }
	title(fmt.Sprintf("%s: %s", s.ID, s.State()))
	line("service %s, instance %s, defined at %s", s.Service, cmp.Or(s.Instance, "-"), cmp.Or(s.Origin, "-"))
	if d.Identity != "" {
		line("identity %s", d.Identity)
		line("application %s, which speaks %s", d.Application, s.Protocol)
		line("intentions enforced by %s; a revocation takes: %s (%s)", s.Enforcement, s.RevocationBound, s.Revocation)
		title("Listeners")
		for _, l := range d.Listeners {
			line("%s  %s  %s", l.Name, cmp.Or(l.Address, l.Socket), l.Origin)
		}
		printUpstreams(title, line, d.Upstreams)
		title("Who may connect")
		for _, r := range d.Rules {
			line("%s", ruleInWords(r))
		}
	}
	for _, t := range s.Streams {
		title(fmt.Sprintf("Envoy %s, connected since %s", cmp.Or(t.EnvoyVersion, "of unknown version"), at(t.Since)))
		if t.Token != nil {
			line("token %s, good until %s", t.Token.ID, at(t.Token.Expires))
		}
		for _, l := range t.Leafs {
			line("leaf %s, serial %s, valid from %s to %s", l.ID, l.Serial, at(l.NotBefore), at(l.NotAfter))
		}
		for _, k := range t.Types {
			line("%s: sent %s, accepted %s", count(k.Resources, k.Type), at(k.Sent), at(k.ACKed))
		}
		if text := whenRevoked(t, time.Now()); text != "" {
			line("%s", text)
		}
		if !t.DrainsUntil.IsZero() && time.Now().Before(t.DrainsUntil) {
			line("connections from before a revocation end by %s", at(t.DrainsUntil))
		}
	}
	if len(s.Streams) == 0 {
		title("No Envoy is connected")
	}
	fmt.Fprintln(w)
}

// whenRevoked says what a revocation waits for that has not ended live connections yet; empty: there is
// none.
func whenRevoked(t xds.StreamStatus, now time.Time) string {
	switch {
	case !t.RevocationPending:
		return ""
	case t.RevocationAt.IsZero():
		return "a revocation was sent, and Envoy has not accepted yet what ends live connections"
	}
	return fmt.Sprintf("a revocation refuses new connections already, and ends live ones in %s: the one before has just done that, and how often it is done is bounded",
		max(t.RevocationAt.Sub(now), 0).Round(time.Second))
}

func printUpstreams(title func(string), line func(string, ...any), upstreams []admin.Upstream) {
	if len(upstreams) > 0 {
		title("Upstreams")
	}
	endpoints := func(indent string, all []admin.Endpoint) {
		for _, e := range all {
			health := "healthy"
			if !e.Healthy {
				health = "not healthy"
			}
			line("%sendpoint %s, %s, weight %d", indent, e.Address, health, e.Weight)
		}
	}
	for _, u := range upstreams {
		if len(u.Targets) > 0 {
			line("%s (%s) at %s, by its discovery chain  %s", u.Name, u.Protocol, u.Listen, u.Origin)
			for _, t := range u.Targets {
				line("  %s%s", t.ID, expecting(t))
				endpoints("    ", t.Endpoints)
			}
			continue
		}
		line("%s (%s) at %s, expects %s  %s", u.Name, u.Protocol, u.Listen, u.Expects, u.Origin)
		endpoints("  ", u.Endpoints)
		if len(u.Endpoints) == 0 {
			line("  no endpoints: no sidecar of %s is known%s", u.Name, registered(u.Registered))
		}
	}
}

// expecting is whom a target has to be, and that there is nobody.
func expecting(t admin.UpstreamTarget) string {
	switch {
	case t.Expects == "":
		return ", of another cluster: not reached"
	case len(t.Endpoints) == 0:
		return ", expects " + t.Expects + ": no endpoints"
	}
	return ", expects " + t.Expects
}

// registered says that n instances without a sidecar are known; empty: there are none.
func registered(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", though %s registered: give each connect { sidecar_service {} }", count(n, "instance"))
}

// ruleInWords is a rule as one says it.
func ruleInWords(r admin.Rule) string {
	s := r.Source + " may"
	if r.Source == "*" {
		s = "everybody else may"
	}
	if !r.Allowed {
		s += " not"
	}
	s += " connect"
	if r.Origin == "" {
		return s + ", by the default policy"
	}
	if s += ", by " + r.Origin; r.Note != "" {
		s += " (" + r.Note + ")"
	}
	return s
}

// at is a time for people and for machines, "never" for the zero time.
func at(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}
