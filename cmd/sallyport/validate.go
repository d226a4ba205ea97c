package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// validation is what there is to say of a directory.
type validation struct {
	Mistakes []files.Problem `json:"mistakes"`
	Warnings []files.Problem `json:"warnings"`
	// How much there is; 0 if there are mistakes.
	Services   int `json:"services"`
	Proxies    int `json:"proxies"`
	Intentions int `json:"intentions"`
}

func (v *validation) warn(p files.Problem) { v.Warnings = append(v.Warnings, p) }

// print prints the mistakes or that there are none to out, and warnings to side.
func (v *validation) print(out, side io.Writer, dir string) error {
	for _, p := range v.Warnings {
		printWarning(side, p)
	}
	for _, p := range v.Mistakes {
		fmt.Fprintln(out, p)
	}
	if slices.ContainsFunc(v.Mistakes, func(p files.Problem) bool { return p.Unread }) {
		fmt.Fprintf(out, "%s: there may be more: what depends on a file that cannot be read is not checked\n", dir)
	}
	if len(v.Mistakes) > 0 {
		return nil
	}
	doubts := ""
	if n := len(v.Warnings); n > 0 {
		doubts = ", " + count(n, "warning")
	}
	_, err := fmt.Fprintf(out, "%s: %s, %s, %s, no mistakes%s\n", dir, count(v.Services, "service"), count(v.Proxies, "proxy"), count(v.Intentions, "intention"), doubts)
	return err
}

// printWarning prints what was taken all the same.
func printWarning(w io.Writer, p files.Problem) {
	p.Text = "warning: " + p.Text
	fmt.Fprintln(w, p)
}

func newValidateCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "validate DIR",
		Short: "Every mistake in a directory of definitions, at file:line",
		Args:  exactly("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			v := validation{Mistakes: []files.Problem{}, Warnings: []files.Problem{}} // in JSON none is [], which jq takes
			contents, err := readFiles(c, args[0], anyDomain, files.Validate, v.warn)
			problems, mistaken := errors.AsType[files.Errors](err)
			if err != nil && !mistaken {
				return err
			}
			v.Mistakes = append(v.Mistakes, problems...)
			if err == nil {
				v.Warnings = append(v.Warnings, claimed(args[0], contents)...)
				v.Warnings = append(v.Warnings, uninvited(contents)...)
			}
			config, err := readConfig(c.Flags())
			if err != nil {
				return err
			}
			wrong, unknown := undefined(config.TrustDomains, contents)
			v.Mistakes, v.Warnings = append(v.Mistakes, wrong...), append(v.Warnings, unknown...)
			v.Services, v.Proxies = len(contents.Services), len(contents.Proxies)
			for _, d := range contents.Intentions {
				v.Intentions += len(d.Intentions)
			}
			if asJSON {
				err = printJSON(c, v)
			} else {
				err = v.print(c.OutOrStdout(), c.ErrOrStderr(), args[0])
			}
			if err == nil && len(v.Mistakes) > 0 {
				err = exitError(1)
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().String("trust-domains", "", "as for serve, also as "+variable("trust-domains")+": what it defines is checked, too, and that it defines the trust domains which are named")
	addReadFlags(c)
	return c
}

// claimed warns of what proxies name that is another's or the mesh's own, as serve would that has what the
// environment says and no flags besides.
func claimed(dir string, contents catalog.Contents) (out []files.Problem) {
	var all pflag.FlagSet
	serveFlags(&all)
	value := func(flag string) string {
		if v, ok := os.LookupEnv(variable(flag)); ok {
			return v
		}
		if f := all.Lookup(flag); f != nil {
			return f.DefValue
		}
		return ""
	}
	c := serveConfig{
		Catalog: dir, Data: value("data"), RuntimeDir: value("runtime-dir"), SocketDirs: value("socket-dirs"),
		XDSAddress: value("xds-address"), MetricsBind: value("metrics-bind"),
	}
	if c.complete() != nil {
		return nil // without directories serve does not start, and says why
	}
	for _, r := range claim.Judge(c.claims(), contents) {
		at := definition.ParsePosition(r.Origin)
		who := "proxy " + string(r.Proxy) + ": "
		switch {
		case r.Proxy == "":
			who = ""
		case r.Upstream != "":
			who = "proxy " + string(r.Proxy) + ", upstream " + r.Upstream + ": "
		}
		out = append(out, files.Problem{File: at.File, Line: at.Line, Text: who + r.Text})
	}
	return out
}

// uninvited warns of upstreams that refuse their proxy because nobody thought of an intention.
func uninvited(contents catalog.Contents) (out []files.Problem) {
	v := new(catalog.View).Next(contents)
	for p := range v.Proxies() {
		for i, u := range p.Upstreams {
			if u.Foreign != "" {
				continue // its own mesh says who may connect
			}
			for _, service := range dialled(v, u, v.Proxy(p.ID).Upstreams[i]) {
				d := v.Policy(service).Decide(v.Identity(p.Service))
				if d.Reason != intention.ByDefault || d.Allowed() {
					continue
				}
				what := u.Destination.String()
				if service != u.Destination {
					what += ", whose discovery chain leads to " + service.String()
				}
				at := definition.ParsePosition(u.Origin)
				out = append(out, files.Problem{File: at.File, Line: at.Line, Text: fmt.Sprintf(
					"upstream %s: no intention of %s names %s, and the default policy denies, so it is refused: write one that allows it", what, service, p.Service)})
			}
		}
	}
	return out
}

// dialled are the services of the mesh's own datacenter whose instances an upstream leads to, sorted; what it names, if it has no chain.
func dialled(v *catalog.View, u catalog.Upstream, t catalog.Target) []identity.Name {
	if t.Chain == nil {
		return []identity.Name{u.Destination}
	}
	var names []identity.Name
	for _, of := range t.Chain.Targets {
		if of.Datacenter == v.Mesh().Datacenter && !slices.Contains(names, of.Service) {
			names = append(names, of.Service)
		}
	}
	slices.SortFunc(names, func(a, b identity.Name) int { return strings.Compare(a.String(), b.String()) })
	return names
}

// readFlags are the flags of `serve` that change what files mean.
var readFlags = []string{"datacenter", "default-intention-policy", "intention-enforcement", "revocation"}

func addReadFlags(c *cobra.Command) {
	var all pflag.FlagSet
	serveFlags(&all)
	for _, name := range readFlags {
		c.Flags().String(name, all.Lookup(name).DefValue, "as for serve, also as "+variable(name))
	}
}

// anyDomain stands for whichever trust domain a mesh has.
var anyDomain = spiffeid.RequireTrustDomainFromString("mesh.invalid")

// readFiles reads a directory as `serve` would. warned gets what is taken with a warning.
func readFiles(
	c *cobra.Command, dir string, domain spiffeid.TrustDomain, read func(files.Config) (catalog.Contents, error), warned func(files.Problem),
) (catalog.Contents, error) {
	config, err := readConfig(c.Flags())
	if err != nil {
		return catalog.Contents{}, err
	}
	config.Catalog = dir
	cfg, err := config.filesConfig(domain)
	if err != nil {
		return catalog.Contents{}, err
	}
	cfg.Warned = warned
	return read(cfg)
}
