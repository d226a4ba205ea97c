package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/xds"
	"github.com/spf13/cobra"
)

// finding is one line of `sallyport check`.
type finding struct {
	// Check is what was looked at: "control plane", "source", "proxy", "application", "certificate",
	// "clock", "token", "disk".
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	// Text says what was found, Remedy what to do; the latter is empty if it is all right, or Text
	// says it.
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// settleTime is how long a check waits for proxies that are being told something, which is no
// fault.
const settleTime = 5 * time.Second

func newCheckCommand(o *clientOptions) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Is all well? One line for each thing that was looked at, exit status 0 or 1",
		Long: `Check asks the running control plane whether all is well: it answers and is ready, its source is read, each proxy is
connected and has its newest configuration, applications answer their sidecars (by Envoy's own counters: nothing is dialled), certificates
are renewed in time, the clock is right, tokens are taken, and the disk has room. Each line begins with ✓ or ✗; ✗ says what to do.

Exit status: 0 all is well, 1 something is not. Of Envoys that "sallyport envoy" does not run it is not known whether their application answers.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			findings := check(c.Context(), o)
			a := adviceOf(c.Flags())
			for i, f := range findings {
				findings[i].Text, findings[i].Remedy = a.text(f.Text), a.text(f.Remedy)
			}
			if asJSON {
				if err := printJSON(c, findings); err != nil {
					return err
				}
			} else {
				printFindings(c.OutOrStdout(), findings)
			}
			if slices.ContainsFunc(findings, func(f finding) bool { return !f.OK }) {
				return exitError(1)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func check(ctx context.Context, o *clientOptions) []finding {
	client, err := o.find()
	if err != nil {
		return []finding{{Check: "control plane", Text: err.Error()}}
	}
	var s admin.Status
	for end := time.Now().Add(settleTime); ; {
		if s, err = client.Status(ctx); err != nil {
			return []finding{{Check: "control plane", Text: err.Error(), Remedy: "look at the log of `sallyport serve`"}}
		}
		if !slices.ContainsFunc(s.Proxies, settling) || time.Now().After(end) || ctx.Err() != nil {
			return judge(s, time.Now())
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// settling reports whether a proxy is connected and being told something.
func settling(p xds.ProxyStatus) bool {
	refuses := slices.ContainsFunc(p.Streams, func(t xds.StreamStatus) bool { return len(t.Refused) > 0 })
	return p.Connected && !p.Left && !p.InSync && p.BuildError == "" && !refuses
}

// judge says of a status what is well and what is not.
func judge(s admin.Status, now time.Time) (out []finding) {
	// add adds the faults of one kind or, if there are none, that all is well.
	add := func(check, well string, faults []finding) {
		if len(faults) == 0 {
			faults = []finding{{OK: true, Text: well}}
		}
		for _, f := range faults {
			f.Check = check
			out = append(out, f)
		}
	}
	add("control plane", fmt.Sprintf("sallyport %s, up %s, pid %d", s.Version, short(now.Sub(s.Started)), s.PID), judgeReady(s))
	add("source", fmt.Sprintf("%s: %s, %s", s.Catalog.Source, count(s.Catalog.Services, "service"), count(s.Catalog.Intentions, "intention")), judgeSource(s.Catalog, now))
	var refused []finding
	for _, text := range s.Catalog.Refused {
		refused = append(refused, finding{Text: text})
	}
	add("registration", "none names what is another's", refused)
	add("proxy", count(len(s.Proxies), "proxy")+", all in sync", judgeProxies(s))
	var silent []finding
	for _, p := range s.Proxies {
		if a, ok := s.Applications[string(p.ID)]; ok {
			silent = append(silent, finding{
				Text:   fmt.Sprintf("%s at %s does not answer its sidecar %s: %s failed since %s ago", p.Service, a.Address, p.ID, count(int(min(a.Failed, 1<<30)), "attempt"), short(now.Sub(a.Since))),
				Remedy: "start the application, or correct the service's port at " + cmp.Or(a.Origin, p.Origin),
			})
		}
	}
	add("application", "none is known not to answer", silent)
	if critical, natives := judgeNatives(s); natives > 0 {
		add("native", count(natives, "native application"), critical)
	}
	add("certificate", certificatesWell(s, now), judgeCertificates(s, now))
	var clock []finding
	if s.Clock != "" {
		clock = []finding{{Text: s.Clock}}
	}
	add("clock", "nothing says that it is wrong", clock)
	var tokens []finding
	for _, p := range s.Proxies {
		if r := p.LastRejection; r != nil {
			tokens = append(tokens, finding{
				Text:   fmt.Sprintf("%s: its last stream was rejected %s ago: %s", p.ID, short(now.Sub(r.Time)), oneLine(r.Reason)),
				Remedy: fmt.Sprintf("start `sallyport envoy %s` anew with a valid token, or run `sallyport bootstrap %[1]s` again, with the -o of before, for an Envoy that you start yourself", whose(s, p)),
			})
		}
	}
	for _, text := range s.Catalog.Denied {
		tokens = append(tokens, finding{Text: "the control plane's own: " + text})
	}
	add("token", "none is refused now", tokens)
	var disk []finding
	for _, text := range []string{s.Disk, s.Unrecorded} {
		if text != "" {
			disk = append(disk, finding{Text: text})
		}
	}
	add("disk", s.DataDir+" has room", disk)
	return out
}

// whose is the flag by which `sallyport envoy` and `sallyport bootstrap` are told of a proxy.
func whose(s admin.Status, p xds.ProxyStatus) string {
	same := 0
	for _, o := range s.Proxies {
		if o.Instance == p.Instance {
			same++
		}
	}
	if p.Instance == "" || same > 1 {
		return "--proxy-id " + shellWord(string(p.ID))
	}
	return "--sidecar-for " + shellWord(p.Instance)
}

func judgeReady(s admin.Status) (out []finding) {
	for _, r := range s.NotReady {
		// What has a line of its own is said there.
		if r != s.Disk && !slices.Contains(s.Catalog.Problems, r) && (r != noCatalog || len(s.Catalog.Problems) == 0) {
			out = append(out, finding{Text: "not ready: " + r})
		}
	}
	return out
}

func judgeSource(c admin.Catalog, now time.Time) (out []finding) {
	for _, p := range c.Problems {
		f := finding{Text: "newer contents not taken: " + p, Remedy: "mend the file; until then what it said last is served, and what of it contradicts others is not"}
		if c.LastLoaded.IsZero() && c.Services+c.Intentions == 0 {
			f = finding{Text: "not valid yet: " + p, Remedy: "mend it, and it is read again by itself; until then nothing is served"}
		}
		out = append(out, f)
	}
	if !c.StaleSince.IsZero() {
		out = append(out, finding{
			Text:   fmt.Sprintf("%s: in part not up to date for %s", c.Source, short(now.Sub(c.StaleSince))),
			Remedy: "see whether it runs and has a leader (`consul members`, `consul operator raft list-peers`), and whether the token may read",
		})
	}
	return out
}

func judgeProxies(s admin.Status) (out []finding) {
	who := holders{most: maxHolders}
	for _, p := range s.Proxies {
		f := finding{Text: fmt.Sprintf("%s: %s", p.ID, p.State())}
		switch n := p.LastNACK; {
		case p.Left:
			f.Remedy = "stop its sidecar, or register it again"
		case !p.Connected && p.LastRejection != nil:
			f.Remedy = "see the line about its token"
		case !p.Connected:
			f.Remedy = "start `sallyport envoy " + whose(s, p) + "`, or see its log"
		case p.BuildError != "":
			f.Text += ": " + p.BuildError
		case n != nil && n.Standing:
			f.Text = fmt.Sprintf("%s: Envoy refuses %s %s: %s", p.ID, n.Type, strings.Join(n.Resources, ", "), who.refusal(p, n))
			f.Remedy = cmp.Or(remedy(p, n), "mend what Envoy names") + "; it is sent again by itself"
		case p.InSync:
			continue
		default:
			f.Remedy = "`sallyport status " + string(p.ID) + "` says what it waits for"
		}
		out = append(out, f)
	}
	return out
}

// renewedAt is the part of its life that a leaf is renewed before: see sds.RenewAfter, with some
// room.
const renewedAt = 0.95

// rootLeft is how long before its end a root is to be replaced: nobody does that unasked.
const rootLeft = 30 * 24 * time.Hour

func judgeCertificates(s admin.Status, now time.Time) (out []finding) {
	for _, r := range s.Roots {
		if left := r.NotAfter.Sub(now); r.Active && left < min(rootLeft, r.NotAfter.Sub(r.NotBefore)/10) {
			out = append(out, finding{
				Text:   fmt.Sprintf("the CA's root %s ends in %s, at %s: every leaf ends with it", r.Serial, short(left), r.NotAfter.UTC().Format(time.RFC3339)),
				Remedy: "replace it before (docs/operations.md, certificates)",
			})
		}
	}
	for _, p := range s.Proxies {
		for _, t := range p.Streams {
			for _, l := range t.Leafs {
				used := float64(now.Sub(l.NotBefore)) / float64(max(l.NotAfter.Sub(l.NotBefore), 1))
				text := fmt.Sprintf("%s: the leaf %s ends in %s and was not renewed", p.ID, l.Serial, short(l.NotAfter.Sub(now)))
				if used >= 1 {
					text = fmt.Sprintf("%s: the leaf %s ended %s ago", p.ID, l.Serial, short(now.Sub(l.NotAfter)))
				}
				if used > renewedAt {
					out = append(out, finding{Text: text, Remedy: "see in the log of `sallyport serve` why it has no new one"})
				}
			}
		}
	}
	return out
}

func certificatesWell(s admin.Status, now time.Time) string {
	var first time.Time
	for _, p := range s.Proxies {
		if end := p.LeafExpires; !end.IsZero() && (first.IsZero() || end.Before(first)) {
			first = end
		}
	}
	if first.IsZero() {
		return "no leaf is in use"
	}
	return "the first leaf ends in " + short(first.Sub(now))
}

func printFindings(w io.Writer, findings []finding) {
	p := newPainter(w, advice{})
	for _, f := range findings {
		mark := p.paint(green, "✓")
		if !f.OK {
			mark = p.paint(red, "✗")
		}
		fmt.Fprintf(w, "%s %s\n", mark, wrap(fmt.Sprintf("%-13s ", f.Check), f.Text, 16))
		if f.Remedy != "" {
			fmt.Fprintln(w, wrap(strings.Repeat(" ", 16)+"→ ", f.Remedy, 18))
		}
	}
}
