package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sallyport/sallyport/admin"
	"github.com/spf13/cobra"
)

func newBundleCommand(o *clientOptions) *cobra.Command {
	group := &cobra.Command{Use: "bundle", Short: "The mesh's SPIFFE bundle, and those of other trust domains", Args: subcommand, RunE: help}
	group.AddCommand(newBundleShowCommand(o), newBundleImportCommand(o), newBundleEndpointCommand(o))
	return group
}

func newBundleShowCommand(o *clientOptions) *cobra.Command {
	var trustDomain, format string
	c := &cobra.Command{
		Use:   "show",
		Short: "Print the bundle of the mesh's trust domain, or of another one",
		Long: `Show prints with what the identities of a trust domain are verified, public keys alone: what others need of this mesh, or, with
--trust-domain, what is believed of another one now. The format spiffe is a JWK set, as bundle endpoints and SPIRE have it, pem the
certificates. "sallyport status" says how old the bundles of other trust domains are.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if format != "spiffe" && format != "pem" {
				return fmt.Errorf("--format: %q is neither spiffe nor pem", format)
			}
			client, err := o.find()
			if err != nil {
				return err
			}
			b, err := client.Bundle(c.Context(), trustDomain)
			if err != nil {
				return err
			}
			if format == "pem" {
				_, err = io.WriteString(c.OutOrStdout(), b.PEM)
				return err
			}
			var text bytes.Buffer
			if err := json.Indent(&text, b.Document, "", "  "); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), text.String())
			return err
		},
	}
	c.Flags().StringVar(&trustDomain, "trust-domain", "", "another trust domain (default: the mesh's own)")
	c.Flags().StringVar(&format, "format", "spiffe", "spiffe or pem")
	return c
}

// maxBundleFile bounds a file with a bundle, in bytes.
const maxBundleFile = 1 << 20

func newBundleImportCommand(o *clientOptions) *cobra.Command {
	var try, asJSON bool
	c := &cobra.Command{
		Use:   "import TRUST-DOMAIN FILE",
		Short: "Believe a bundle of another trust domain that came by another way",
		Long: `Import has the bundle in FILE (a SPIFFE document or certificates in PEM; - is the standard input) be that of another trust domain which has
a bundle endpoint in --trust-domains, and says which roots come and go. It is for the first bundle, and for an endpoint that cannot be
verified any more, as its roots were changed while nobody asked: get FILE by a way that you trust, and compare it with --dry-run first. The
sequence number may go back. The endpoint is asked again at once.`,
		Args: exactly("TRUST-DOMAIN", "FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := readBundle(c.InOrStdin(), args[1])
			if err != nil {
				return err
			}
			client, err := o.find()
			if err != nil {
				return err
			}
			r, err := client.ImportBundle(c.Context(), admin.ImportRequest{TrustDomain: args[0], Text: string(text), Try: try})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c, r)
			}
			printImport(c.OutOrStdout(), args[0], r, try)
			return nil
		},
	}
	c.Flags().BoolVar(&try, "dry-run", false, "change nothing: say what would")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func readBundle(stdin io.Reader, file string) ([]byte, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxBundleFile+1))
	if err == nil && len(text) > maxBundleFile {
		err = fmt.Errorf("%s has more than %d bytes, which no bundle has", file, maxBundleFile)
	}
	return text, err
}

func printImport(w io.Writer, trustDomain string, r admin.ImportResponse, try bool) {
	lead := "the bundle of %s is now this one%s\n"
	if try {
		lead = "the bundle of %s would be this one%s; nothing was changed\n"
	}
	number := ""
	switch {
	case r.Sequence != nil && r.OldSequence != nil:
		number = fmt.Sprintf(", of sequence number %d after %d", *r.Sequence, *r.OldSequence)
	case r.Sequence != nil:
		number = fmt.Sprintf(", of sequence number %d", *r.Sequence)
	}
	fmt.Fprintf(w, lead, trustDomain, number)
	for _, part := range []struct {
		sign string
		list []string
	}{{"+", r.Added}, {"-", r.Removed}, {" ", r.Kept}} {
		for _, c := range part.list {
			fmt.Fprintf(w, "  %s %s\n", part.sign, c)
		}
	}
}

func newBundleEndpointCommand(o *clientOptions) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "endpoint",
		Short: "How other trust domains get the mesh's bundle",
		Long: `Endpoint prints what other trust domains have to be told to follow the roots of this one: the URL, how it proves itself, and what of that
goes into another sallyport's --trust-domains, or into SPIRE's configuration. The endpoint itself is "serve --bundle-address".`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.find()
			if err != nil {
				return err
			}
			e, err := client.BundleEndpoint(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c, e)
			}
			printEndpoint(c.OutOrStdout(), e)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printEndpoint(w io.Writer, e admin.BundleEndpoint) {
	fmt.Fprintf(w, "trust domain %s, sequence number %d, refresh hint %d s\n", e.TrustDomain, e.Sequence, e.RefreshSeconds)
	if e.URL == "" {
		fmt.Fprintln(w, "no endpoint: start serve with --bundle-address HOST:PORT, or give others what `sallyport bundle show` prints, anew after each rotation")
		return
	}
	var sallyport, spire strings.Builder
	fmt.Fprintf(&sallyport, "trust_domain: %s\nendpoint:\n  url: %s\n  profile: %s\n", e.TrustDomain, e.URL, e.Profile)
	fmt.Fprintf(&spire, "federates_with %q {\n  bundle_endpoint_url = %q\n  bundle_endpoint_profile %q {", e.TrustDomain, e.URL, e.Profile)
	if e.SPIFFEID != "" {
		fmt.Fprintf(&sallyport, "  spiffe_id: %s\nbundle: %s.json # the first one: sallyport bundle show\n", e.SPIFFEID, e.TrustDomain)
		fmt.Fprintf(&spire, "\n    endpoint_spiffe_id = %q\n  ", e.SPIFFEID)
	}
	spire.WriteString("}\n}\n")
	fmt.Fprintf(w, "\n# a file of another sallyport's --trust-domains\n%s\n# of SPIRE's server.conf, in server { federation { … } }", &sallyport)
	if e.SPIFFEID != "" {
		fmt.Fprint(w, "; the first bundle by `spire-server bundle set`")
	}
	fmt.Fprintf(w, "\n%s", &spire)
}
