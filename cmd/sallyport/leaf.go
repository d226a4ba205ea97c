package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newLeafCommand(o *clientOptions) *cobra.Command {
	group := &cobra.Command{Use: "leaf", Short: "Leaf certificates", Args: subcommand, RunE: help}
	var asJSON bool
	rotate := &cobra.Command{
		Use:   "rotate SERVICE",
		Short: "Give a service a new leaf now; no connection ends",
		Long: `Rotate gives a service a new leaf at once, as when its key may be known to others. SERVICE may be an instance or a proxy of it too: all that
have the service's identity get the new leaf.`,
		Args:              exactly("SERVICE"),
		ValidArgsFunction: completing(o, 1, proxyNames),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.find()
			if err != nil {
				return err
			}
			if err := client.Rotate(c.Context(), args[0]); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c, map[string]string{"rotated": args[0]})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s has a new leaf\n", args[0])
			return err
		},
	}
	rotate.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	group.AddCommand(rotate)
	return group
}
