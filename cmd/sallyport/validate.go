package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

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

// readFiles reads a directory as `serve` would.
func readFiles(c *cobra.Command, dir string, domain spiffeid.TrustDomain) (catalog.Contents, error) {
	config, err := readConfig(c.Flags())
	if err != nil {
		return catalog.Contents{}, err
	}
	config.Catalog = dir
	cfg, err := config.filesConfig(domain)
	if err != nil {
		return catalog.Contents{}, err
	}
	cfg.Warned = func(p files.Problem) { // what was taken with a warning is printed beside the answer
		p.Text = "warning: " + p.Text
		fmt.Fprintln(c.ErrOrStderr(), p)
	}
	return files.Load(cfg)
}
