package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spf13/cobra"
)

func newIntentionCommand(o *clientOptions) *cobra.Command {
	group := &cobra.Command{Use: "intention", Short: "Ask what intentions say", Args: subcommand, RunE: help}
	var dir string
	var asJSON bool
	var request admin.CheckRequest
	check := &cobra.Command{
		Use:   "check SOURCE DESTINATION",
		Short: "Allowed or Denied, why, and from which file:line",
		Long: `Check says whether the service SOURCE may connect to the service DESTINATION. SOURCE may be a SPIFFE ID too; of an
instance or a proxy its service is meant. Of a name that nobody has registered the intentions about all destinations hold and the
default, as of any other; the answer says that no such service is registered, and the exit status is as for others.
With --method, --path or --header it says so of a request, which permissions are about; of a connection they say no.
It asks the running control plane, or with --catalog the files alone: then the trust domain of a SPIFFE ID is taken for the mesh's. Exit status: 0 allowed, 1 denied, 2 error;
while files of the catalog have newer contents that could not be taken, 3 allowed, 4 denied: the answer is what is in force. 4 too while the
intention allows and waits for the disk, which has to have it first.`,
		Args:              exactly("SOURCE", "DESTINATION"),
		ValidArgsFunction: completing(o, 2, serviceName),
		RunE: func(c *cobra.Command, args []string) error {
			var r admin.CheckResponse
			var err error
			if dir != "" {
				r, err = checkFiles(c, dir, args[0], args[1], request)
			} else if err = readFlagsUnused(c); err == nil {
				var client *admin.Client
				if client, err = o.find(); err == nil {
					r, err = client.Check(c.Context(), args[0], args[1], request)
				}
			}
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(c, r)
			} else {
				_, err = fmt.Fprintln(c.OutOrStdout(), r.Explain())
				if r.Remedy != "" && err == nil {
					_, err = fmt.Fprintln(c.OutOrStdout(), "→ "+r.Remedy)
				}
			}
			if err == nil {
				err = answer(r)
			}
			return err
		},
	}
	check.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	check.Flags().StringVar(&request.Method, "method", "", "ask about a request with this method (default GET, if --path or --header is given)")
	check.Flags().StringVar(&request.Path, "path", "", "ask about a request for this path, which may have a query (default /, if --method or --header is given)")
	check.Flags().StringArrayVar(&request.Headers, "header", nil, "ask about a request with this header, as 'x-role: admin'; may be given several times")
	check.Flags().StringVar(&dir, "catalog", "", "ask the files in this directory, without a server")
	addReadFlags(check)
	group.AddCommand(check, newIntentionListCommand(o))
	return group
}

// answer is the exit status of an answer.
func answer(r admin.CheckResponse) error {
	switch waits := len(r.Waiting) > 0 || r.Held != ""; {
	case waits && r.Allowed:
		return exitError(3)
	case waits:
		return exitError(4)
	case !r.Allowed:
		return exitError(1)
	}
	return nil
}

func newIntentionListCommand(o *clientOptions) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list [SERVICE]",
		Short: "All intentions that are in force, those that decide first at the top of each destination",
		Long: `List asks the running control plane for the intentions that are in force, with their precedence and the place where each was read. With
the name of a service it lists those about it, as source or destination.`,
		Args:              between(0, "SERVICE"),
		ValidArgsFunction: completing(o, 1, serviceName),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.find()
			if err != nil {
				return err
			}
			rules, err := client.Intentions(c.Context())
			if err != nil {
				return err
			}
			s, err := client.Status(c.Context())
			switch {
			case err != nil:
				return err
			case s.Change == 0:
				return errors.New("nothing is known of the mesh yet: `sallyport check` says why")
			case len(args) == 1:
				if rules, err = rulesAbout(args[0], rules, s); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(c, rules)
			}
			return printRules(c.OutOrStdout(), rules)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// rulesAbout are those of rules that are about a service, an instance or a proxy. The error is that
// nothing is known of it.
func rulesAbout(name string, rules []admin.Rule, s admin.Status) (about []admin.Rule, err error) {
	service, known := name, []string(nil)
	for _, n := range namedIn(s) {
		known = append(known, n.service)
		if name == n.id || name == n.instance {
			service = n.service
		}
	}
	about = []admin.Rule{}
	for _, r := range rules {
		known = append(known, r.Source, r.Destination)
		if slices.ContainsFunc([]string{r.Source, r.Destination}, func(n string) bool { return n == service || n == identity.Wildcard }) {
			about = append(about, r)
		}
	}
	if slices.Contains(known, service) {
		return about, nil
	}
	text := fmt.Sprintf("nothing is known of a service %q, and no intention names it", name)
	if near := definition.Nearest(name, known); near != "" {
		return nil, fmt.Errorf("%s: did you mean %q?", text, near)
	}
	return nil, errors.New(text + ": `sallyport status` lists what is known")
}

// namedIn are all that a status names.
func namedIn(s admin.Status) (out []named) {
	for _, p := range s.Proxies {
		out = append(out, namedStatus(p))
	}
	for _, i := range s.Instances {
		out = append(out, namedInstance(i))
	}
	return out
}

func printRules(w io.Writer, rules []admin.Rule) error {
	if len(rules) == 0 {
		_, err := fmt.Fprintln(w, "no intentions: the default policy decides (`sallyport intention check SOURCE DESTINATION`)")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DESTINATION\tSOURCE\tACTION\tPRECEDENCE\tORIGIN")
	for _, r := range rules {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", r.Destination, r.Source, word(r), r.Precedence, strings.TrimSpace(r.Origin+" "+r.Note))
	}
	return t.Flush()
}

// readFlagsUnused refuses flags that a running control plane does not look at.
func readFlagsUnused(c *cobra.Command) error {
	for _, name := range readFlags {
		if c.Flags().Changed(name) {
			return fmt.Errorf("--%s: is for --catalog; a running control plane has a configuration of its own", name)
		}
	}
	return nil
}

func checkFiles(c *cobra.Command, dir, source, destination string, request admin.CheckRequest) (admin.CheckResponse, error) {
	contents, err := readFiles(c, dir, anyDomain, files.Load, func(p files.Problem) { printWarning(c.ErrOrStderr(), p) })
	if err != nil {
		return admin.CheckResponse{}, err
	}
	if id, err := identity.ParseID(source); err == nil {
		asNamed(&contents, id)
	}
	return checkIntention((&catalog.View{}).Next(contents), source, destination, request, dir)
}

// checkIntention answers "may source connect to destination?" from v, or whether it may send the request, unless that is none. Of a name that nobody has registered,
// which is more often a typing mistake than a question, the answer says so. dir is where the files of v are; empty: v
// is of one node of Consul's alone, and has not all that is registered.
func checkIntention(v *catalog.View, source, destination string, request admin.CheckRequest, dir string) (admin.CheckResponse, error) {
	whole := dir != ""
	if v == nil || v.Mesh() == nil {
		return admin.CheckResponse{}, errors.New("nothing is known of the mesh yet: `sallyport check` says why")
	}
	var id identity.ID
	src := v.Identity(serviceOf(v, source))
	if strings.HasPrefix(source, "spiffe://") {
		var err error
		if id, err = identity.ParseID(source); err != nil {
			return admin.CheckResponse{}, fmt.Errorf("source: %w", err)
		}
		if id.TrustDomain() == v.Mesh().TrustDomain {
			if src, err = identity.ParseURI(source); err != nil {
				return admin.CheckResponse{}, fmt.Errorf("source: %w", err)
			}
		}
	} else if err := src.Name.Check(); err != nil {
		return admin.CheckResponse{}, fmt.Errorf("source: %w", err)
	} else {
		id = identity.ID(src.String())
	}
	dst := serviceOf(v, destination)
	if err := dst.Check(); err != nil {
		return admin.CheckResponse{}, fmt.Errorf("destination: %w", err)
	}
	foreign := id.TrustDomain() != v.Mesh().TrustDomain
	asked, err := requestOf(request)
	if err != nil {
		return admin.CheckResponse{}, err
	}
	d := v.DecideID(id, dst)
	if asked != nil {
		d = v.DecideRequest(id, dst, asked)
	}
	r := admin.CheckResponse{Allowed: d.Allowed(), Source: source, Destination: destination, Reason: d.Reason.String()}
	if d.Reason == intention.ByDefault && !r.Allowed {
		r.Remedy = whatAllows(v, src.Name, dst, dir)
	}
	if d.Revocation != nil {
		r.Reason, r.Origin, r.Note = "the revocation of "+d.Revocation.String(), d.Revocation.Origin, d.Revocation.Reason
		r.Remedy = "to allow it again, `sallyport unrevoke " + d.Revocation.ID + "`, or take it out of the list at " + d.Revocation.Origin
	}
	if i := d.Intention; i != nil {
		r.Intention, r.Origin, r.Precedence = i.String(), i.Origin, i.Precedence()
		r.Note, r.Held = i.WhyDenied(), i.Held
		switch r.Permission = d.Permission; {
		case d.Permission > 0:
			r.Intention = d.String()
		case d.Reason == intention.RequestsOnly && speaksTCP(v, dst):
			r.Note = "its permissions are about requests, and " + dst.Service + " speaks tcp"
		case d.Reason == intention.RequestsOnly:
			r.Note = "its permissions are about requests, and deny connections: ask with --method, --path and --header"
		case d.Reason != intention.ByIntention && r.Note == "":
			r.Note = d.Reason.String()
		}
	}
	var notes []string
	if foreign && !r.Allowed && d.Intention == nil {
		r.Remedy = whatAllowsForeign(v, d.Reason, id, dst, dir)
	}
	// Of what is registered in other datacenters only those who dial it here know.
	known := v.Service(src.Name) != nil && (!whole || defines(v, func(n identity.Name) bool { return n == src.Name }))
	if !known && !foreign && src.Datacenter == v.Mesh().Datacenter {
		notes = append(notes, fmt.Sprintf("no service %q is registered%s", src.Name, nearestService(v, src.Name.Service)))
	}
	switch {
	case served(v, dst.Fold()):
	case whole && !defines(v, func(n identity.Name) bool { return n.Fold() == dst.Fold() }):
		notes = append(notes, fmt.Sprintf("no service %q is registered%s", destination, nearestService(v, destination)))
	case native(v, dst.Fold()): // which asks for itself, and whether it does is not seen
		notes = append(notes, fmt.Sprintf("%q is a native application, which asks for itself", destination))
	default:
		notes = append(notes, fmt.Sprintf("no sidecar of %q is known", destination))
	}
	if r.Note == "" {
		r.Note = strings.Join(notes, "; ")
	}
	return r, nil
}

// whatAllows is what has to be written, and where, to allow a source that is denied by default.
func whatAllows(v *catalog.View, source, destination identity.Name, dir string) string {
	allow := fmt.Sprintf("{ Name = %q Action = \"allow\" }", source.Service)
	for _, d := range v.About(destination) {
		if len(d.Intentions) > 0 { // a second entry for the name would be an error
			return fmt.Sprintf("to allow it, write %s into the Sources of the service-intentions of %s, at %s", allow, d.Name, d.Intentions[0].Origin)
		}
	}
	where := "into a file of " + dir
	if dir == "" {
		where = "for `consul config write -`"
	}
	return fmt.Sprintf("to allow it, write %s: Kind = \"service-intentions\" Name = %q Sources = [%s]", where, destination.Service, allow)
}

// asTaken says of an answer what of the files is not taken.
func asTaken(r admin.CheckResponse, notTaken []admin.NotTaken) admin.CheckResponse {
	origin := r.Origin[:max(strings.LastIndexByte(r.Origin, ':'), 0)]
	for _, n := range notTaken {
		r.Waiting = append(r.Waiting, n.File)
		if n.File == origin {
			r.TakenAt = n.TakenAt
		}
	}
	return r
}

// native reports whether v has a native application of a service that folds to the name.
func native(v *catalog.View, service identity.Name) bool {
	for r := range v.Registrations() {
		if r.Native && r.Service.Fold() == service {
			return true
		}
	}
	return false
}

// served reports whether v has a sidecar of a service that folds to the name, or an endpoint of one
// that is elsewhere. That v has the service says less: an intention that names it is enough.
func served(v *catalog.View, service identity.Name) bool {
	for pr := range v.Proxies() {
		if pr.Service.Fold() == service {
			return true
		}
		for _, t := range v.Proxy(pr.ID).Upstreams {
			if t.Service.Name.Fold() == service && t.Service.Datacenter == "" && len(t.Endpoints.List) > 0 {
				return true
			}
			if t.Chain == nil {
				continue
			}
			for id, of := range t.Chain.Targets {
				if of.Service.Fold() == service && of.Datacenter == v.Mesh().Datacenter && len(t.Chain.Endpoints[id].List) > 0 {
					return true
				}
			}
		}
	}
	return false
}
