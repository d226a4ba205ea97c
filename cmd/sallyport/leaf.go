package main

import (
	"fmt"
	"io"

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
			printRotated(c.OutOrStdout(), args[0], r)
			return nil
		},
	}
	rotate.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	group.AddCommand(newLeafListCommand(o), rotate)
	return group
}

// printRotated says which leafs a rotation has replaced. Which application has been given its own is not known yet.
func printRotated(w io.Writer, name string, r admin.RotateResponse) {
	fmt.Fprintf(w, "%s has a new leaf\n", name)
	if len(r.Leafs) == 0 {
		fmt.Fprintf(w, "  its applications are given theirs when they ask next, and those that wait at once: `sallyport leaf list %s` has the serials\n", name)
	}
	for _, l := range r.Leafs {
		fmt.Fprintf(w, "  %s: serial %s, until %s, in place of %s\n", l.Proxy, l.Serial, at(l.NotAfter), l.OldSerial)
	}
}
