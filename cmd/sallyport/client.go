package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
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
				kept := s.Proxies[:0]
				for _, p := range s.Proxies {
					if string(p.ID) == args[0] || p.Instance == args[0] {
						kept = append(kept, p)
					}
				}
				if s.Proxies = kept; len(kept) == 0 {
					return fmt.Errorf("no proxy %q in the catalog (`sallyport status` lists them)", args[0])
				}
			}
			s.TLS12 = tls12(c.Context(), client.Dir(), s.Proxies)
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(s)
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
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nPROXY\tSERVICE\tSTATE\tENVOY\tLAST ANSWER\tLEAF EXPIRES\tMODE\tREVOCATION")
	for _, p := range s.Proxies {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.ID, p.Service, p.State(), dash(p.EnvoyVersion), p.LastAnswer(time.Now()), until(p.LeafExpires), p.Enforcement, p.RevocationBound)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if n := uncounted(s); n > 0 {
		fmt.Fprintf(w, "TLS 1.2: not counted for %d of %d connected proxies, as their Envoys' administration cannot be asked from here\n", n, connected(s))
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

// uncounted is how many connected proxies could have had handshakes of TLS 1.2 that nobody has counted. Beside files there are none unless the mesh entry wants them.
func uncounted(s admin.Status) int {
	if !strings.HasPrefix(s.Catalog.Source, consulSource) {
		return 0
	}
	return connected(s) - len(s.TLS12)
}

func connected(s admin.Status) (n int) {
	for _, p := range s.Proxies {
		if p.Connected {
			n++
		}
	}
	return n
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func until(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return "in " + time.Until(t).Round(time.Second).String()
}

func newIntentionCommand(o *clientOptions) *cobra.Command {
	group := &cobra.Command{Use: "intention", Short: "Ask what intentions say", Args: cobra.NoArgs, RunE: help}
	var dir string
	check := &cobra.Command{
		Use:   "check SOURCE DESTINATION",
		Short: "Allowed or Denied, why, and from which file:line",
		Long: `Check says whether the service SOURCE may connect to the service DESTINATION. SOURCE may be a SPIFFE ID too.
It asks the running control plane, or with --catalog the files alone: then the trust domain of a SPIFFE ID is taken for the mesh's. Exit status: 0 allowed, 1 denied, 2 error.`,
		Args: exactly("SOURCE", "DESTINATION"),
		RunE: func(c *cobra.Command, args []string) error {
			var r admin.CheckResponse
			var err error
			if dir != "" {
				r, err = checkFiles(c, dir, args[0], args[1])
			} else if err = readFlagsUnused(c); err == nil {
				var client *admin.Client
				if client, err = admin.Find(o.runtimeDir); err == nil {
					r, err = client.Check(c.Context(), args[0], args[1])
				}
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), r.Explain())
			if !r.Allowed {
				return exitError(1)
			}
			return nil
		},
	}
	check.Flags().StringVar(&dir, "catalog", "", "ask the files in this directory, without a server")
	addReadFlags(check)
	group.AddCommand(check)
	return group
}

// readFlags are the flags of `serve` that change what files mean, and their defaults.
var readFlags = []struct{ name, unset string }{
	{"datacenter", "dc1"}, {"default-intention-policy", "deny"}, {"intention-enforcement", "rbac"}, {"revocation", ""},
}

func addReadFlags(c *cobra.Command) {
	for _, f := range readFlags {
		c.Flags().String(f.name, f.unset, "as for serve, also as "+variable(f.name))
	}
}

// readFlagsUnused refuses flags that a running control plane does not look at.
func readFlagsUnused(c *cobra.Command) error {
	for _, f := range readFlags {
		if c.Flags().Changed(f.name) {
			return fmt.Errorf("--%s: is for --catalog; a running control plane has a configuration of its own", f.name)
		}
	}
	return nil
}

// anyDomain stands for whichever trust domain a mesh has.
var anyDomain = spiffeid.RequireTrustDomainFromString("mesh.invalid")

// readFiles reads a directory as `serve` would.
func readFiles(c *cobra.Command, dir string, domain spiffeid.TrustDomain) (catalog.Contents, error) {
	flag := func(name string) string {
		f := c.Flags().Lookup(name)
		if v, ok := os.LookupEnv(variable(name)); ok && !f.Changed {
			return v
		}
		return f.Value.String()
	}
	cfg, err := serveConfig{
		Catalog: dir, Datacenter: flag("datacenter"), DefaultIntentionPolicy: flag("default-intention-policy"),
		IntentionEnforcement: flag("intention-enforcement"), Revocation: flag("revocation"),
	}.filesConfig(domain)
	if err != nil {
		return catalog.Contents{}, err
	}
	cfg.Warned = func(p files.Problem) { // what is odd but taken is said beside the answer
		p.Text = "warning: " + p.Text
		fmt.Fprintln(c.ErrOrStderr(), p)
	}
	return files.Load(cfg)
}

func checkFiles(c *cobra.Command, dir, source, destination string) (admin.CheckResponse, error) {
	domain := anyDomain
	if strings.HasPrefix(source, "spiffe://") {
		id, err := identity.ParseURI(source)
		if err != nil {
			return admin.CheckResponse{}, fmt.Errorf("source: %w", err)
		}
		domain = id.TrustDomain // the files do not know their mesh's
	}
	contents, err := readFiles(c, dir, domain)
	if err != nil {
		return admin.CheckResponse{}, err
	}
	return checkIntention((&catalog.View{}).Next(contents), source, destination)
}

// checkIntention answers "may source connect to destination?" from v. An unknown destination is an error, as it is more often a typing mistake than a question.
func checkIntention(v *catalog.View, source, destination string) (admin.CheckResponse, error) {
	if v == nil || v.Mesh() == nil {
		return admin.CheckResponse{}, errors.New("nothing is known of the mesh yet")
	}
	src := v.Identity(identity.NewName(source))
	if strings.HasPrefix(source, "spiffe://") {
		id, err := identity.ParseURI(source)
		if err != nil {
			return admin.CheckResponse{}, fmt.Errorf("source: %w", err)
		}
		src = id
	} else if err := src.Name.Check(); err != nil {
		return admin.CheckResponse{}, fmt.Errorf("source: %w", err)
	}
	dst := identity.NewName(destination)
	if err := dst.Check(); err != nil {
		return admin.CheckResponse{}, fmt.Errorf("destination: %w", err)
	}
	p := v.Policy(dst)
	if p == nil {
		return admin.CheckResponse{}, fmt.Errorf("destination: %w: no service %q is registered and no intention names it", admin.ErrUnknown, destination)
	}
	d := p.Decide(src)
	r := admin.CheckResponse{Allowed: d.Allowed(), Source: source, Destination: destination, Reason: d.Reason.String()}
	if i := d.Intention; i != nil {
		r.Intention, r.Origin, r.Precedence = i.String(), i.Origin, i.Precedence()
		if i.Unsupported != "" {
			r.Note = "denies because sallyport does not support its " + i.Unsupported
		}
	}
	// Of what is registered in other datacenters only those who dial it here know.
	if v.Service(src.Name) == nil && src.Datacenter == v.Mesh().Datacenter && r.Note == "" {
		r.Note = "no service of that name is registered"
	}
	return r, nil
}

func newLeafCommand(o *clientOptions) *cobra.Command {
	group := &cobra.Command{Use: "leaf", Short: "Leaf certificates", Args: cobra.NoArgs, RunE: help}
	group.AddCommand(&cobra.Command{
		Use:   "rotate SERVICE",
		Short: "Give a service a new leaf now; no connection ends",
		Args:  exactly("SERVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := admin.Find(o.runtimeDir)
			if err != nil {
				return err
			}
			if err := client.Rotate(c.Context(), args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s has a new leaf\n", args[0])
			return err
		},
	})
	return group
}

func newValidateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "validate DIR",
		Short: "Every mistake in a directory of definitions, at file:line",
		Args:  exactly("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			contents, err := readFiles(c, args[0], anyDomain)
			if problems, ok := errors.AsType[files.Errors](err); ok {
				for _, p := range problems {
					fmt.Fprintln(c.OutOrStdout(), p)
				}
				if slices.ContainsFunc(problems, func(p files.Problem) bool { return p.Unread }) {
					fmt.Fprintf(c.OutOrStdout(), "%s: there may be more: what files say of one another is checked when all of them can be read\n", args[0])
				}
				return exitError(1)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %d services, %d proxies, %d intentions, no mistakes\n", args[0], len(contents.Services), len(contents.Proxies), len(contents.Intentions))
			return err
		},
	}
	addReadFlags(c)
	return c
}

func newConsulCommand() *cobra.Command {
	group := &cobra.Command{Use: "consul", Short: "Beside a Consul agent", Args: cobra.NoArgs, RunE: help}
	var node string
	policy := &cobra.Command{
		Use:   "policy [--node-name NODE]",
		Short: "Print the ACL policy that the control plane's own token needs",
		Long: `Policy prints the ACL policy of the control plane's own token, for ` + "`consul acl policy create -rules -`" + `. Sidecars have tokens of their own,
with service:write on their service, as for Consul's own proxies.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(c.OutOrStdout(), consul.Policy(node))
			return err
		},
	}
	policy.Flags().StringVar(&node, "node-name", "", "the agent's node; without it the policy is for any node")
	group.AddCommand(policy)
	return group
}
