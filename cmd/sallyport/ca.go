package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/ca"
	"github.com/spf13/cobra"
)

func newCACommand(o *clientOptions) *cobra.Command {
	group := &cobra.Command{Use: "ca", Short: "The certificate authority of the mesh", Args: subcommand, RunE: help}
	group.AddCommand(newCAStatusCommand(o), newCARotateCommand(o), newConformanceCommand(), newVaultPolicyCommand())
	return group
}

func newCAStatusCommand(o *clientOptions) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Who signs, the roots and their ages, and for whom a rotation waits",
		Long: `Status asks the running control plane who signs, which roots the mesh trusts and until when, when what signs is replaced, and how far a
rotation has come: its phase, and by name everybody for whom the next one waits, why, and until when at the latest.

Beside Consul its servers rotate: status says who has not accepted the roots of the agent, or has a leaf of an older root still.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.find()
			if err != nil {
				return err
			}
			s, err := client.CA(c.Context())
			switch {
			case err != nil:
				return err
			case asJSON:
				return printJSON(c, s)
			}
			printCA(c.OutOrStdout(), adviceOf(c.Flags()), s, time.Now())
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newCARotateCommand(o *clientOptions) *cobra.Command {
	var r admin.RotateCARequest
	var wait, asJSON bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the root, or have another provider sign; no connection ends",
		Long: `Rotate begins to replace the root and returns. The control plane does the rest, over restarts too: the new root is in every bundle
(prepare); when everybody with a leaf has accepted it, leafs are signed under it, with the old root's signature of it in their chains
(activate); when everybody has a leaf of it, the old root leaves (retire). "sallyport ca status" says for whom it waits.

While a rotation runs, --override, --distrust and --end-old-connections are about that one. One that only prepares is taken back by --cancel:
nothing is signed under the new root yet, which leaves the bundles.`,
		Example: `  sallyport ca rotate --wait
  sallyport ca rotate --override web-sidecar-proxy
  sallyport ca rotate --cancel
  sallyport ca rotate --distrust --end-old-connections`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.find()
			if err != nil {
				return err
			}
			s, err := client.RotateCA(c.Context(), r)
			if err != nil {
				return err
			}
			if wait {
				if s, err = awaitRotation(c.Context(), c.ErrOrStderr(), client, s); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(c, s)
			}
			printCA(c.OutOrStdout(), adviceOf(c.Flags()), s, time.Now())
			return nil
		},
	}
	c.Flags().StringVar(&r.To, "to", "", "the provider that signs afterwards (default: the one that signs now, under a new root)")
	c.Flags().StringArrayVar(&r.Override, "override", nil, "proxy (or who else stands in \"sallyport ca status\") whose acceptance of the new root is not waited for")
	c.Flags().BoolVar(&r.Dangerous, "dangerous", false, "--override even where the old root cannot sign the new one: connections of those that are not waited for then fail")
	c.Flags().BoolVar(&r.Distrust, "distrust", false, "the old root's key is known to others: wait for nobody who is not connected; who is silent has to come back for new certificates")
	c.Flags().BoolVar(&r.EndConnections, "end-old-connections", false, "when the old root has left, end all connections, which it may have authenticated")
	c.Flags().BoolVar(&r.Cancel, "cancel", false, "take the rotation back that is running, which is possible in the phase prepare")
	c.Flags().BoolVar(&wait, "wait", false, "return when the rotation has ended")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// askAgain is how often is asked how far a rotation has come.
const askAgain = time.Second

// awaitRotation waits until the rotation in s has ended, and says on w how far it has come. A control plane that is away is waited for.
func awaitRotation(ctx context.Context, w io.Writer, client *admin.Client, s admin.CA) (admin.CA, error) {
	last := ""
	for s.Rotation != nil {
		if text := rotationText(*s.Rotation); text != last {
			fmt.Fprintln(w, text)
			last = text
		}
		timer := time.NewTimer(askAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return s, ctx.Err()
		}
		next, err := client.CA(ctx)
		switch {
		case err == nil:
			s = next
		case !admin.MayPass(err):
			return s, err
		}
	}
	return s, nil
}

// rotationText is how far a rotation has come, in a line.
func rotationText(r admin.Rotation) string {
	text := "the root is being replaced"
	if r.From != r.To {
		text += fmt.Sprintf(", %s by %s", r.From, r.To)
	}
	text += ": " + r.Phase
	if n := len(r.Waiting); n > 0 {
		var names []string
		for _, h := range r.Waiting[:min(n, 3)] {
			names = append(names, h.Name)
		}
		text += ", waits for " + strings.Join(names, ", ")
		if n > 3 {
			text += fmt.Sprintf(" and %d more", n-3)
		}
	}
	return text
}

// maxWaiting is how many of those that are waited for are printed.
const maxWaiting = 50

func printCA(w io.Writer, a advice, s admin.CA, now time.Time) {
	p := newPainter(w, a)
	text := "provider " + s.Provider
	if s.TrustDomain != "" {
		text += ", trust domain " + s.TrustDomain
	}
	fmt.Fprintln(w, text)
	if s.Problem != "" {
		fmt.Fprintln(w, p.paint(red, wrap("  problem: ", p.text(s.Problem), 4)))
	}
	if len(s.Roots) > 0 {
		fmt.Fprintln(w)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ROOT\tSTATE\tPROVIDER\tSHA-256\tAGE\tENDS")
		for n, r := range s.Roots {
			made := r.NotBefore
			if r.Provider == ca.Builtin {
				made = ca.Made(r.NotBefore, r.NotAfter)
			}
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\tin %s\n", n+1, r.State, r.Provider, fit(r.SHA256, 17), short(max(now.Sub(made), 0)), short(r.NotAfter.Sub(now)))
		}
		_ = t.Flush()
	}
	fmt.Fprintln(w)
	if !s.IntermediateEnds.IsZero() {
		fmt.Fprintf(w, "intermediate: ends in %s, replaced in %s\n", short(s.IntermediateEnds.Sub(now)), short(max(s.IntermediateRenewal.Sub(now), 0)))
	}
	if !s.LeafEnds.IsZero() {
		fmt.Fprintf(w, "leafs: the first in use ends in %s, and is replaced before\n", short(s.LeafEnds.Sub(now)))
	}
	switch {
	case s.Rotation != nil:
		printRotation(w, p, s, *s.Rotation, now)
	case s.Followed:
		fmt.Fprintln(w, wrap("", p.text("rotation: none; Consul's servers rotate: `consul connect ca set-config`"), 2))
	default:
		fmt.Fprintln(w, "rotation: none")
	}
}

// nextPhase says what follows a phase, and what has to have happened.
func nextPhase(s admin.CA, r admin.Rotation) string {
	switch {
	case s.Followed:
		return "Consul's servers remove the old root by themselves; those below have to come back before, or get new certificates when they do"
	case r.Phase == string(ca.Preparing) && r.CrossSigned:
		return "activate follows when all below have accepted the new root"
	case r.Phase == string(ca.Preparing):
		return "activate follows when all below have accepted the new root, which the old one cannot sign"
	case r.Phase == string(ca.Activating):
		return "retire follows when all below have a leaf of the new root, or theirs has ended"
	case r.Phase == string(ca.Retiring):
		return "the old root leaves"
	}
	return ""
}

func printRotation(w io.Writer, p painter, s admin.CA, r admin.Rotation, now time.Time) {
	text := "rotation: " + r.Phase
	if !r.Since.IsZero() {
		text += " for " + short(now.Sub(r.Since))
	}
	if !r.Started.IsZero() {
		text += ", begun " + short(now.Sub(r.Started)) + " ago"
	}
	if r.From != r.To {
		text += fmt.Sprintf(", from %s to %s", r.From, r.To)
	}
	fmt.Fprintln(w, p.paint(bold, text))
	fmt.Fprintln(w, wrap("  ", nextPhase(s, r), 2))
	if len(r.Overridden) > 0 && r.Phase == string(ca.Preparing) { // later everybody is waited for
		fmt.Fprintln(w, wrap("  not waited for: ", strings.Join(r.Overridden, ", "), 4))
	}
	if r.EndsConnections {
		fmt.Fprintln(w, "  all connections end when the old root has left")
	}
	switch {
	case len(r.Waiting) == 0 && r.NotBefore.After(now):
		fmt.Fprintf(w, "  waits for nobody: goes on in %s\n", short(r.NotBefore.Sub(now)))
	case len(r.Waiting) == 0:
		fmt.Fprintln(w, "  waits for nobody")
	default:
		fmt.Fprintln(w)
		all := slices.Clone(r.Waiting)
		slices.SortStableFunc(all, func(a, b admin.Holder) int { // those of which nothing is heard are the ones to look after
			if a.Connected != b.Connected && b.Connected {
				return -1
			} else if a.Connected != b.Connected {
				return 1
			}
			return 0
		})
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "WAITS FOR\tUNTIL AT MOST\tWHY")
		for _, h := range all[:min(len(all), maxWaiting)] {
			fmt.Fprintf(t, "%s\tin %s\t%s\n", fit(h.Name, 40), short(h.Ends.Sub(now)), h.Reason)
		}
		_ = t.Flush()
		if more := len(all) - maxWaiting; more > 0 {
			fmt.Fprintf(w, "and %d more: --json lists all\n", more)
		}
	}
}
