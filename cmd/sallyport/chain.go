package main

import (
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/spf13/cobra"
)

func newChainCommand(o *clientOptions) *cobra.Command {
	var dir string
	var asJSON bool
	c := &cobra.Command{
		Use:   "chain SERVICE",
		Short: "How requests to a service find the instances that answer them",
		Long: `Chain prints the discovery chain of the service SERVICE: what its service-router, service-splitter and service-resolver entries, and
those of the services that they lead to, come to. A node that several lead to is printed once. With --json it is in the shape of Consul's
/v1/discovery-chain.
It asks the running control plane, with --datacenter for the chain as it is there, or with --catalog the files alone: server names
end in mesh.invalid then, as files do not say the mesh's trust domain. Beside Consul the control plane knows the chains of those services that
proxies here dial.`,
		Args:              exactly("SERVICE"),
		ValidArgsFunction: completing(o, 1, serviceName),
		RunE: func(c *cobra.Command, args []string) error {
			var compiled *chain.Chain
			var known []string
			var err error
			if dir != "" {
				compiled, known, err = chainOfFiles(c, dir, args[0])
			} else {
				compiled, err = chainOfServer(c, o, args[0])
			}
			if err != nil {
				return err
			}
			if dir != "" && compiled.Default && !slices.Contains(known, args[0]) {
				text := fmt.Sprintf("no service %q is registered, and no entry is about it", args[0])
				if near := definition.Nearest(args[0], known); near != "" {
					text += fmt.Sprintf(": did you mean %q?", near)
				}
				fmt.Fprintln(c.ErrOrStderr(), "warning: "+text)
			}
			if asJSON {
				return printJSON(c, struct{ Chain *chain.Chain }{compiled})
			}
			return printChain(c.OutOrStdout(), compiled)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, as Consul has it")
	c.Flags().StringVar(&dir, "catalog", "", "compile the entries in this directory, without a server")
	addReadFlags(c)
	return c
}

// chainOfFiles is a chain of the entries in a directory, and the services that are registered there.
func chainOfFiles(c *cobra.Command, dir, service string) (*chain.Chain, []string, error) {
	contents, err := readFiles(c, dir, anyDomain, files.Load, func(p files.Problem) { printWarning(c.ErrOrStderr(), p) })
	if err != nil {
		return nil, nil, err
	}
	v := (&catalog.View{}).Next(contents)
	compiled, err := v.CompileChain(identity.NewName(service), "", chain.Overrides{})
	var known []string
	for s := range v.Services() {
		known = append(known, s.Name.Service)
	}
	for _, e := range contents.Entries {
		known = append(known, e.Name)
	}
	return compiled, known, err
}

// chainOfServer is a chain that the running control plane knows. With --datacenter it is the one of that datacenter.
func chainOfServer(c *cobra.Command, o *clientOptions, service string) (*chain.Chain, error) {
	datacenter := ""
	if f := c.Flags().Lookup(datacenterFlag); f.Changed {
		datacenter, f.Changed = f.Value.String(), false
	}
	if err := readFlagsUnused(c); err != nil {
		return nil, err
	}
	client, err := o.find()
	if err != nil {
		return nil, err
	}
	return client.Chain(c.Context(), service, datacenter)
}

// datacenterFlag is that of the files; a running control plane has its own, and compiles chains of others, too.
const datacenterFlag = "datacenter"

// adminChain answers `sallyport chain`.
func (p *controlPlane) adminChain(service, datacenter string) (*chain.Chain, error) {
	v, _ := p.store.Views.Load()
	if v == nil || v.Mesh() == nil {
		return nil, fmt.Errorf("%w: nothing is known of the mesh: `sallyport check` says why", admin.ErrNotYet)
	}
	if datacenter != "" {
		if err := identity.CheckDatacenter(datacenter); err != nil {
			return nil, fmt.Errorf("datacenter %w", err)
		}
	}
	return v.CompileChain(identity.NewName(service), datacenter, chain.Overrides{})
}
