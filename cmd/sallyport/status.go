package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/xds"
	"github.com/spf13/cobra"
)

func newStatusCommand(o *clientOptions) *cobra.Command {
	var asJSON, check bool
	c := &cobra.Command{
		Use:   "status [PROXY]",
		Short: "What every sidecar runs, what it refused, and until when its leaf is valid",
		Long: `Status asks the running control plane for its proxies, those with trouble first: whether they are connected, Envoy's version, the
last ACK or NACK with Envoy's own words, the leaf's expiry, where intentions are enforced, and warnings. With a service, an instance or the
ID of a proxy it is about those alone; of one proxy it says all: identity, listeners, upstreams with their endpoints and whom it expects
there, the rules in words, leafs, and what was sent and accepted when. Applications without a sidecar are listed below the proxies; of one it
says its identity, which sidecars dial it, and who may connect. At the end are those who ask the HTTP API and the Workload API for themselves:
how many connections they have, how many questions and streams wait, and when the first of their leafs ends.

Exit status: 0, and with --check 1 if a proxy or the control plane has trouble ("sallyport check" says what to do about it).`,
		Args:              between(0, "PROXY"),
		ValidArgsFunction: completing(o, 1, anyName),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.find()
			if err != nil {
				return err
			}
			s, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			all := len(s.Proxies)
			if len(args) == 1 {
				found := matching(slices.Values(s.Proxies), args[0], namedStatus)
				s.Instances = instancesNamed(s.Instances, args[0])
				if len(found)+len(s.Instances) == 0 {
					return fmt.Errorf("no proxy %q in the catalog%s", args[0], nearest(slices.Values(s.Proxies), args[0], namedStatus))
				}
				s.Proxies = found
				about := []string{args[0]}
				for _, i := range s.Instances {
					about = append(about, i.Service)
				}
				for _, p := range found {
					about = append(about, p.Service)
				}
				s.Callers = callersFor(s.Callers, about)
			}
			s.TLS12 = tls12(c.Context(), client.Dir(), s.Proxies)
			var full *admin.Proxy
			if len(args) == 1 && len(s.Proxies) == 1 {
				p, err := client.Proxy(c.Context(), string(s.Proxies[0].ID))
				if err != nil {
					return err
				}
				full = &p
			}
			var instance *admin.InstanceDetail
			if len(args) == 1 && len(s.Proxies) == 0 && len(s.Instances) == 1 {
				i, err := client.Instance(c.Context(), s.Instances[0].ID)
				if err != nil {
					return err
				}
				instance = &i
			}
			if asJSON {
				err = printJSON(c, struct {
					admin.Status
					Proxy    *admin.Proxy          `json:"proxy,omitempty"`
					Instance *admin.InstanceDetail `json:"instance,omitempty"`
				}{s, full, instance})
			} else {
				printStatus(c.OutOrStdout(), adviceOf(c.Flags()), s, all, full, instance)
			}
			if err == nil && check && troubled(s) {
				err = exitError(1)
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&check, "check", false, "exit with status 1 if there is trouble")
	return c
}

// trouble is how bad the state of a proxy is; 0: it is all right.
func trouble(s admin.Status, p xds.ProxyStatus) int {
	_, silent := s.Applications[string(p.ID)]
	refuses := slices.ContainsFunc(p.Streams, func(t xds.StreamStatus) bool { return len(t.Refused) > 0 })
	switch {
	case p.BuildError != "" || p.Left || refuses || p.LastRejection != nil:
		return 5
	case !p.Connected:
		return 4
	case silent:
		return 3
	case !p.InSync:
		return 2
	case len(p.Warnings) > 0:
		return 1
	}
	return 0
}

// troubled reports whether something of s is not all right. Warnings are no trouble.
func troubled(s admin.Status) bool {
	return len(s.NotReady)+len(s.Catalog.Problems) > 0 || !s.Catalog.StaleSince.IsZero() || s.Unrecorded != "" || s.Clock != "" || s.Disk != "" || len(s.BadTrustDomains) > 0 ||
		slices.ContainsFunc(s.TrustDomains, func(d admin.TrustDomain) bool { return d.Stale }) ||
		slices.ContainsFunc(s.TokenKeys, func(k admin.TokenKeys) bool { return k.Keys == 0 }) ||
		slices.ContainsFunc(s.Proxies, func(p xds.ProxyStatus) bool { return trouble(s, p) > 1 })
}

// printStatus prints the proxies of s, of all that there are, and all of one of them if full or instance is it.
func printStatus(w io.Writer, a advice, s admin.Status, all int, full *admin.Proxy, instance *admin.InstanceDetail) {
	p := newPainter(w, a)
	printPlane(w, p, s, all)
	slices.SortStableFunc(s.Proxies, func(a, b xds.ProxyStatus) int { return trouble(s, b) - trouble(s, a) })
	if full == nil {
		if len(s.Proxies) > 0 || len(s.Instances) == 0 {
			printProxies(w, p, s)
		}
	} else {
		printProxy(w, p, *full)
	}
	if instance == nil {
		printInstances(w, p, s.Instances)
	} else {
		printInstance(w, p, *instance)
	}
	printCallers(w, p, s.Callers)
	if n, connected := uncounted(s); n > 0 {
		fmt.Fprintln(w, wrap("", fmt.Sprintf("TLS 1.2: not counted for %d of %d connected proxies, as their Envoys' administration cannot be asked from here", n, connected), 2))
	}
	who := &holders{most: maxHolders}
	for _, pr := range s.Proxies {
		for _, note := range notes(s, pr, who) {
			fmt.Fprintln(w, wrap("", p.text(fmt.Sprintf("%s: %s", pr.ID, note)), 2))
		}
	}
}

// calledItself says which proxy somebody claimed to be.
func calledItself(proxy string) string {
	if proxy == "" {
		return ""
	}
	return fmt.Sprintf(" as %q", proxy)
}

// printPlane prints the state of the control plane.
func printPlane(w io.Writer, p painter, s admin.Status, all int) {
	fmt.Fprintln(w, wrap("", fmt.Sprintf("sallyport %s, up %s; trust domain %s, datacenter %s",
		s.Version, short(time.Since(s.Started)), cmp.Or(s.TrustDomain, "not known yet"), cmp.Or(s.Datacenter, "not known yet")), 2))
	text := fmt.Sprintf("catalog: %s, %s, %s, %s", s.Catalog.Source, count(s.Catalog.Services, "service"), count(all, "proxy"), count(s.Catalog.Intentions, "intention"))
	if !s.Catalog.LastLoaded.IsZero() {
		text += fmt.Sprintf(", as of %s ago", short(time.Since(s.Catalog.LastLoaded)))
	}
	if !s.Catalog.StaleSince.IsZero() {
		text += ", in part not up to date for " + short(time.Since(s.Catalog.StaleSince))
	}
	if s.Change != 0 {
		text += fmt.Sprintf(", change %d", s.Change)
	}
	fmt.Fprintln(w, wrap("", text, 2))
	if r := s.Rotation; r != nil {
		fmt.Fprintln(w, wrap("", p.text("root: "+rotationText(*r)+": `sallyport ca status` says more"), 2))
	}
	if c, i := s.RevokedCertificates, s.RevokedIdentities; c+i > 0 {
		fmt.Fprintln(w, wrap("", p.text(fmt.Sprintf("revoked: %s, %s: `sallyport revoked` lists them", count(c, "certificate"), count(i, "identity"))), 2))
	}
	line := func(c colour, lead, text string) {
		fmt.Fprintln(w, p.paint(c, wrap("  "+lead+": ", p.text(text), 4)))
	}
	for _, r := range s.NotReady {
		line(red, "not ready", r)
	}
	for _, text := range s.Catalog.Problems {
		if !slices.Contains(s.NotReady, text) {
			line(red, "newer contents not taken", text)
		}
	}
	for _, n := range s.Catalog.NotTaken {
		line(red, "not taken", n.String())
	}
	for _, text := range []string{s.Unrecorded, s.Clock} {
		if text != "" {
			line(red, "warning", text)
		}
	}
	if s.Disk != "" && !slices.Contains(s.NotReady, s.Disk) {
		line(red, "warning", s.Disk)
	}
	for _, text := range s.Catalog.Warnings {
		line(yellow, "warning", text)
	}
	for _, text := range s.BadTrustDomains {
		line(red, "trust domain not taken", text)
	}
	for _, d := range s.TrustDomains {
		c, text := green, fmt.Sprintf("%s of %s, %s", count(d.Roots, "root"), d.Name, cmp.Or(d.Profile, "from a file"))
		if !d.Confirmed.IsZero() {
			text += fmt.Sprintf(", as of %s ago", short(time.Since(d.Confirmed)))
		}
		switch {
		case d.Stale:
			c = red
		case d.Problem != "":
			c = yellow
		}
		line(c, "other trust domain", strings.TrimSuffix(text+": "+oneLine(d.Problem), ": "))
	}
	for _, k := range s.TokenKeys {
		c, text := green, fmt.Sprintf("%s of %s", count(k.Keys, "key"), k.Source)
		if !k.Confirmed.IsZero() {
			text += fmt.Sprintf(", as of %s ago", short(time.Since(k.Confirmed)))
		}
		switch {
		case k.Keys == 0:
			c = red
		case k.Problem != "":
			c = yellow
		}
		line(c, "tokens verified by", strings.TrimSuffix(text+": "+oneLine(k.Problem), ": "))
	}
	if r := s.Refusals.Last; r != nil {
		line(yellow, "refused", fmt.Sprintf("%d streams, calls and connections, the last %s ago: %s%s: %s", s.Refusals.Count,
			short(time.Since(r.Time)), cmp.Or(r.Peer, "unknown"), calledItself(string(r.Proxy)), oneLine(r.Reason)))
	}
}

// The widths of the table's first columns; what is longer is cut. The others are as wide as what
// can stand in them: all of a line fits the page.
const (
	proxyWidth, serviceWidth, stateWidth = 28, 14, 22
)

// printProxies prints the table.
func printProxies(w io.Writer, p painter, s admin.Status) {
	rows := [][]string{{"PROXY", "SERVICE", "STATE", "ENVOY", "LAST", "LEAF", "MODE"}}
	for _, pr := range s.Proxies {
		state := pr.State()
		if _, silent := s.Applications[string(pr.ID)]; silent && pr.InSync {
			state = "app does not answer"
		}
		rows = append(rows, []string{
			fit(string(pr.ID), proxyWidth), fit(pr.Service, serviceWidth), fit(state, stateWidth), cmp.Or(pr.EnvoyVersion, "-"),
			lastAnswer(pr, time.Now()), until(pr.LeafExpires), cmp.Or(strings.Replace(pr.Enforcement, "ext_authz", "ext", 1), "-"),
		})
	}
	widths := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Fprintln(w)
	for n, r := range rows {
		var b strings.Builder
		for i, cell := range r {
			pad := ""
			if i < len(r)-1 {
				pad = strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			}
			if i == 2 && n > 0 {
				cell = p.paint(stateColour(trouble(s, s.Proxies[n-1])), cell)
			}
			if n == 0 {
				cell = p.paint(bold, cell)
			}
			b.WriteString(cell + pad)
		}
		fmt.Fprintln(w, b.String())
	}
}

func stateColour(trouble int) colour {
	switch {
	case trouble > 2:
		return red
	case trouble > 0:
		return yellow
	}
	return green
}

// lastAnswer is the last answer of a proxy's Envoys, and how long ago it came: "ACK 3s", "-".
func lastAnswer(p xds.ProxyStatus, now time.Time) string {
	switch n := p.LastNACK; {
	case n != nil && n.Time.After(p.LastACK):
		return "NACK " + short(now.Sub(n.Time))
	case !p.LastACK.IsZero():
		return "ACK " + short(now.Sub(p.LastACK))
	}
	return "-"
}

// notes are what does not fit the table, the worst first.
func notes(s admin.Status, p xds.ProxyStatus, who *holders) (out []string) {
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if p.Left {
		add("is connected, and not in the catalog: its Envoy keeps what it had: stop it, or register it again")
	}
	if p.BuildError != "" {
		add("keeps what it had, because: %s", p.BuildError)
	}
	if n := p.LastNACK; n != nil {
		state := "" // of a stream that ended nobody knows whether it was
		if p.Connected && !n.Standing {
			state = ", mended"
		}
		text := who.refusal(p, n)
		if mend := remedy(p, n); mend != "" && n.Standing {
			text += ": " + mend
		}
		add("Envoy refused %s %s %s ago%s: %s", n.Type, strings.Join(n.Resources, ", "), short(time.Since(n.Time)), state, text)
	}
	if r := p.LastRejection; r != nil {
		add("its last stream was rejected %s ago: %s", short(time.Since(r.Time)), oneLine(r.Reason))
	}
	if a, ok := s.Applications[string(p.ID)]; ok {
		add("the application %s at %s does not answer its sidecar: %s failed since %s ago", p.Service, a.Address, count(int(min(a.Failed, 1<<30)), "attempt"), short(time.Since(a.Since)))
	}
	if p.Waiting != "" {
		add("waiting: %s", p.Waiting)
	}
	for _, t := range p.Streams {
		if !t.RevocationAt.IsZero() { // else it has been sent, and State says what Envoy has not accepted
			add("%s", whenRevoked(t, time.Now()))
			break
		}
	}
	if n := s.TLS12[string(p.ID)]; n > 0 {
		add("%d inbound handshakes were TLS 1.2 (peers under Consul's own control plane)", n)
	}
	for _, warning := range p.Warnings {
		add("warning: %s", warning)
	}
	return out
}

// uncounted is how many of the connected proxies could have had handshakes of TLS 1.2 that nobody
// has counted.
func uncounted(s admin.Status) (n, connected int) {
	for _, p := range s.Proxies {
		if p.Connected {
			connected++
		}
	}
	if s.AcceptsTLS12 {
		n = connected - len(s.TLS12)
	}
	return n, connected
}

func until(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return short(time.Until(t))
}
