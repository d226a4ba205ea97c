package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/sallyport/sallyport/chain"
)

// printChain prints a chain as a tree for people.
func printChain(w io.Writer, c *chain.Chain) error {
	t := chainTree{chain: c, printed: map[string]bool{}}
	head := fmt.Sprintf("discovery chain of %s in %s, %s", shown(c.Service.String()), shown(c.Datacenter), shown(c.Protocol))
	if c.Default {
		head += " (default: no entry changes it)"
	}
	t.lines = append(t.lines, head)
	t.node(c.Start, "", true, "")
	_, err := io.WriteString(w, strings.Join(t.lines, "\n")+"\n")
	return err
}

// chainTree is a chain on its way to paper.
type chainTree struct {
	chain   *chain.Chain
	printed map[string]bool // keys of nodes
	lines   []string
}

// line adds one, behind what connects it to its parent, and returns what its children begin with.
func (t *chainTree) line(before string, last bool, text string) string {
	branch, below := "├─ ", "│  "
	if last {
		branch, below = "└─ ", "   "
	}
	t.lines = append(t.lines, before+branch+text)
	return before + below
}

// node adds a node and what it leads to. how says how its parent comes to it.
func (t *chainTree) node(key, before string, last bool, how string) {
	n := t.chain.Nodes[key]
	if n == nil {
		t.line(before, last, how+"? "+shown(key))
		return
	}
	if n.Type == chain.ResolverNode {
		t.line(before, last, how+t.resolver(n))
		return
	}
	text := fmt.Sprintf("%s%s of %s", how, n.Type, shown(strings.TrimSuffix(n.Name, "."+t.chain.Service.Namespace+"."+t.chain.Service.Partition)))
	if t.printed[key] {
		t.line(before, last, text+" (as above)")
		return
	}
	t.printed[key] = true
	if n.LoadBalancer != nil {
		text += ", " + balanced(n.LoadBalancer)
	}
	below := t.line(before, last, text)
	for i, r := range n.Routes {
		children := t.line(below, i == len(n.Routes)-1, fmt.Sprintf("[%d] %s", i, matches(r.Definition)))
		for _, s := range destined(r.Definition.Destination) {
			t.lines = append(t.lines, children+"   "+s)
		}
		for _, m := range r.Definition.Unservable() {
			t.lines = append(t.lines, children+"   answered 503: "+shown(m.Message))
		}
		t.node(r.Next, children, true, "")
	}
	for i, s := range n.Splits {
		how := strconv.FormatFloat(s.Weight, 'f', -1, 64) + " % "
		children := below + "│  "
		if last := i == len(n.Splits)-1; last {
			children = below + "   "
		}
		t.node(s.Next, below, i == len(n.Splits)-1, how)
		for _, s := range slices.Concat(modified("request", s.Definition.RequestHeaders), modified("response", s.Definition.ResponseHeaders)) {
			t.lines = append(t.lines, children+"   "+s)
		}
		for _, m := range s.Definition.Unservable() {
			t.lines = append(t.lines, children+"   answered 503: "+shown(m.Message))
		}
	}
}

// resolver is a resolver's line.
func (t *chainTree) resolver(n *chain.Node) string {
	r := n.Resolver
	text := t.target(r.Target)
	if r.ConnectTimeout != 0 {
		text += ", connect timeout " + r.ConnectTimeout.String()
	}
	if r.RequestTimeout != 0 {
		text += ", request timeout " + r.RequestTimeout.String()
	}
	if n.LoadBalancer != nil {
		text += ", " + balanced(n.LoadBalancer)
	}
	others := make([]string, len(r.Failover))
	for i, id := range r.Failover {
		others[i] = t.target(id)
	}
	if len(others) > 0 {
		text += "; fails over to " + strings.Join(others, ", then ")
	}
	return text
}

// target names a target, and what of its service is in it.
func (t *chainTree) target(id string) string {
	g := t.chain.Targets[id]
	if g == nil {
		return "? " + shown(id)
	}
	text := shown(g.Service.String())
	if g.Subset != "" {
		text = shown(g.Subset) + " of " + text
	}
	if g.Peer != "" {
		text += " of the peer " + shown(g.Peer)
	} else if g.Datacenter != t.chain.Datacenter {
		text += " in " + shown(g.Datacenter)
	}
	var which []string
	if g.Filter != "" {
		which = append(which, shown(g.Filter))
	}
	if g.OnlyPassing {
		which = append(which, "only passing")
	}
	if g.External {
		which = append(which, "SNI "+shown(g.SNI))
	}
	if g.GatewayMode != "" {
		which = append(which, "mesh gateway "+shown(g.GatewayMode))
	}
	if len(which) > 0 {
		text += " (" + strings.Join(which, "; ") + ")"
	}
	return text
}

// matches says which requests a route is for.
func matches(r *chain.Route) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if m := r.Match; m != nil {
		for _, p := range []struct{ what, path string }{{"path", m.PathExact}, {"path prefix", m.PathPrefix}, {"path regex", m.PathRegex}} {
			if p.path != "" {
				add("%s %s", p.what, shown(p.path))
			}
		}
		if m.CaseInsensitive && m.PathExact+m.PathPrefix != "" {
			add("in any letter case")
		}
		if len(m.Methods) > 0 {
			add("method %s", shown(strings.Join(m.Methods, "|")))
		}
		for _, h := range m.Header {
			not := ""
			if h.Invert {
				not = "not "
			}
			add("%sheader %s %s", not, shown(h.Name), condition(h))
		}
		for _, q := range m.QueryParam {
			add("parameter %s %s", shown(q.Name), condition(chain.HeaderMatch{Present: q.Present, Exact: q.Exact, Regex: q.Regex}))
		}
	}
	text := "all requests"
	if len(parts) > 0 {
		text = strings.Join(parts, ", ")
	}
	if r.Origin != "" {
		text += "  (" + shown(r.Origin) + ")"
	}
	return text
}

// condition is what a header has to be.
func condition(h chain.HeaderMatch) string {
	text := "present"
	for _, c := range []struct{ what, value string }{{"is", h.Exact}, {"begins with", h.Prefix}, {"ends with", h.Suffix}, {"contains", h.Contains}, {"matches", h.Regex}} {
		if c.value != "" {
			text = c.what + " " + shown(c.value)
		}
	}
	if h.IgnoreCase {
		text += " in any letter case"
	}
	return text
}

// destined says what becomes of a route's requests, but for where they go.
func destined(d *chain.Destination) []string {
	if d == nil {
		return nil
	}
	var parts []string
	if d.PrefixRewrite != "" {
		parts = append(parts, "rewritten to "+shown(d.PrefixRewrite))
	}
	for _, t := range []struct {
		what string
		d    time.Duration
	}{{"timeout", d.RequestTimeout}, {"idle timeout", d.IdleTimeout}} {
		switch {
		case t.d < 0:
			parts = append(parts, "no "+t.what)
		case t.d > 0:
			parts = append(parts, t.what+" "+t.d.String())
		}
	}
	on := slices.Clone(d.RetryOn)
	if d.RetryOnConnectFailure {
		on = append(on, "connect-failure")
	}
	for _, code := range d.RetryOnStatusCodes {
		on = append(on, strconv.Itoa(int(code)))
	}
	if d.NumRetries > 0 {
		parts = append(parts, fmt.Sprintf("%d retries", d.NumRetries))
	}
	if len(on) > 0 {
		parts = append(parts, "retried on "+shown(strings.Join(on, ", ")))
	}
	var lines []string
	if len(parts) > 0 {
		lines = []string{strings.Join(parts, ", ")}
	}
	return slices.Concat(lines, modified("request", d.RequestHeaders), modified("response", d.ResponseHeaders))
}

// modified says what is done to headers.
func modified(of string, m *chain.HeaderModifiers) (lines []string) {
	if m == nil {
		return nil
	}
	for _, list := range []struct {
		verb   string
		values map[string]string
	}{{"add", m.Add}, {"set", m.Set}} {
		for _, name := range slices.Sorted(maps.Keys(list.values)) {
			lines = append(lines, fmt.Sprintf("%s %s header %s: %s", list.verb, of, shown(name), shown(list.values[name])))
		}
	}
	for _, name := range m.Remove {
		lines = append(lines, fmt.Sprintf("remove %s header %s", of, shown(name)))
	}
	return lines
}

// balanced says how an instance is chosen.
func balanced(l *chain.LoadBalancer) string {
	text := shown(l.Policy)
	if text == "" {
		text = "default balancer"
	}
	hashed := make([]string, len(l.HashPolicies))
	for i, h := range l.HashPolicies {
		hashed[i] = "source address"
		if !h.SourceIP {
			hashed[i] = shown(h.Field) + " " + shown(h.FieldValue)
		}
		if h.Cookie != nil && h.Cookie.TTL > 0 {
			hashed[i] += " for " + h.Cookie.TTL.String()
		}
	}
	if len(hashed) > 0 {
		text += " by " + strings.Join(hashed, " and ")
	}
	return text
}

// shown is text that somebody wrote, so that it cannot move a terminal's cursor.
func shown(s string) string {
	if strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return strconv.Quote(s)
	}
	return s
}
