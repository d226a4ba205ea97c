package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/xds"
	"github.com/spf13/cobra"
)

func newStatusCommand(o *clientOptions) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status [PROXY]",
		Short: "What every sidecar runs, what it refused, and until when its leaf is valid",
		Long: `Status asks the running control plane for its proxies: whether they are connected, Envoy's version, the last ACK or NACK with
Envoy's own words, the leaf's expiry, where intentions are enforced, how long a revocation takes at most, and warnings.
With the ID of a proxy or of a service instance it says all it knows of that one.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := admin.Find(o.runtimeDir)
			if err != nil {
				return err
			}
			s, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			all := len(s.Proxies)
			if len(args) == 1 {
				s.Proxies = slices.DeleteFunc(s.Proxies, func(p xds.ProxyStatus) bool { return string(p.ID) != args[0] && p.Instance != args[0] })
				if len(s.Proxies) == 0 {
					return fmt.Errorf("no proxy %q in the catalog: `sallyport status` lists them", args[0])
				}
			}
			s.TLS12 = tls12(c.Context(), client.Dir(), s.Proxies)
			if asJSON {
				return printJSON(c, s)
			}
			return printStatus(c.OutOrStdout(), s, all, len(args) == 1)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// printStatus prints the proxies of s, of all that there are.
func printStatus(w io.Writer, s admin.Status, all int, full bool) error {
	fmt.Fprintf(w, "sallyport %s, up %s; trust domain %s, datacenter %s\n",
		s.Version, time.Since(s.Started).Round(time.Second), cmp.Or(s.TrustDomain, "not known yet"), cmp.Or(s.Datacenter, "not known yet"))
	fmt.Fprintf(w, "catalog: %s, %d services, %d proxies, %d intentions", s.Catalog.Source, s.Catalog.Services, all, s.Catalog.Intentions)
	if !s.Catalog.LastLoaded.IsZero() {
		fmt.Fprintf(w, ", as of %s ago", time.Since(s.Catalog.LastLoaded).Round(time.Second))
	}
	if !s.Catalog.StaleSince.IsZero() {
		fmt.Fprintf(w, ", in part not up to date for %s", time.Since(s.Catalog.StaleSince).Round(time.Second))
	}
	if s.Change != 0 {
		fmt.Fprintf(w, ", change %d", s.Change)
	}
	fmt.Fprintln(w)
	for _, p := range s.Catalog.Problems {
		fmt.Fprintln(w, "  newer contents not taken:", p)
	}
	for _, p := range s.Catalog.Warnings {
		fmt.Fprintln(w, "  warning:", p)
	}
	for _, r := range s.NotReady {
		fmt.Fprintln(w, "  not ready:", r)
	}
	if s.Unrecorded != "" {
		fmt.Fprintln(w, "  warning:", s.Unrecorded)
	}
	if r := s.Refusals.Last; r != nil {
		fmt.Fprintf(w, "refused: %d streams, calls and connections, the last %s ago: %s%s: %s\n", s.Refusals.Count,
			time.Since(r.Time).Round(time.Second), cmp.Or(r.Peer, "unknown"), calledItself(string(r.Proxy)), oneLine(r.Reason))
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nPROXY\tSERVICE\tSTATE\tENVOY\tLAST ANSWER\tLEAF EXPIRES\tMODE\tREVOCATION")
	for _, p := range s.Proxies {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.ID, p.Service, p.State(), cmp.Or(p.EnvoyVersion, "-"), p.LastAnswer(time.Now()), until(p.LeafExpires), p.Enforcement, p.RevocationBound)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if n, connected := uncounted(s); n > 0 {
		fmt.Fprintf(w, "TLS 1.2: not counted for %d of %d connected proxies, as their Envoys' administration cannot be asked from here\n", n, connected)
	}
	for _, p := range s.Proxies {
		if n := p.LastNACK; n != nil {
			state := "" // of a stream that ended nobody knows whether it was
			if p.Connected && !n.Standing {
				state = ", mended"
			}
			fmt.Fprintf(w, "%s: Envoy refused %s %s %s ago%s: %s\n", p.ID, n.Type, strings.Join(n.Resources, ", "), time.Since(n.Time).Round(time.Second), state, oneLine(strings.TrimSpace(n.Message)))
		}
		if r := p.LastRejection; r != nil && !p.Connected {
			fmt.Fprintf(w, "%s: its last stream was rejected %s ago: %s\n", p.ID, time.Since(r.Time).Round(time.Second), oneLine(r.Reason))
		}
		if n := s.TLS12[string(p.ID)]; n > 0 {
			fmt.Fprintf(w, "%s: %d inbound handshakes were TLS 1.2 (peers under Consul's own control plane)\n", p.ID, n)
		}
		if p.BuildError != "" {
			fmt.Fprintf(w, "%s: keeps what it had, because: %s\n", p.ID, p.BuildError)
		}
		for _, warning := range p.Warnings {
			fmt.Fprintf(w, "%s: warning: %s\n", p.ID, warning)
		}
		if full {
			fmt.Fprintf(w, "%s: defined at %s\n", p.ID, p.Origin)
		}
	}
	return nil
}

// calledItself says which proxy somebody claimed to be.
func calledItself(proxy string) string {
	if proxy == "" {
		return ""
	}
	return fmt.Sprintf(" as %q", proxy)
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
	return "in " + time.Until(t).Round(time.Second).String()
}
