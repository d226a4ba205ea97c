package main

import "github.com/spf13/cobra"

func newCACommand() *cobra.Command {
	group := &cobra.Command{Use: "ca", Short: "The CA behind the mesh's certificates", Args: subcommand, RunE: help}
	group.AddCommand(newConformanceCommand())
	return group
}
