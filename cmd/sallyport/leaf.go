package main

import (
	"fmt"

	"github.com/sallyport/sallyport/admin"
	"github.com/spf13/cobra"
)

func newLeafCommand(o *clientOptions) *cobra.Command {
	group := &cobra.Command{Use: "leaf", Short: "Leaf certificates", Args: subcommand, RunE: help}
	var asJSON bool
	rotate := &cobra.Command{
		Use:   "rotate SERVICE",
		Short: "Give a service a new leaf now; no connection ends",
		Long: `Rotate gives a service a new leaf at once, as when its key may be known to others. SERVICE may be an instance or a proxy of it too: all that
have the service's identity get the new leaf, sidecars and applications.`,
		Args:              exactly("SERVICE"),
		ValidArgsFunction: completing(o, 1, anyName),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.find()
			if err != nil {
				return err
			}
			r, err := client.Rotate(c.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c, struct {
					Rotated string `json:"rotated"`
					admin.RotateResponse
				}{args[0], r})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s has a new leaf\n", args[0])
			for _, l := range r.Leafs {
				fmt.Fprintf(c.OutOrStdout(), "  %s: serial %s, until %s, in place of %s\n", l.Proxy, l.Serial, at(l.NotAfter), l.OldSerial)
			}
			return nil
		},
	}
	rotate.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	group.AddCommand(newLeafListCommand(o), rotate)
	return group
}
