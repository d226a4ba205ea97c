package main

import (
	"fmt"

	"github.com/sallyport/sallyport/admin"
	"github.com/spf13/cobra"
)

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
