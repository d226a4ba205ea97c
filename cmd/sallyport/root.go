package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/sallyport/sallyport/admin"
	"github.com/spf13/cobra"
)

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "Service segmentation for Envoy",
		Long: `Sallyport turns a service catalog, leaf certificates and intentions (Consul Connect's model) into Envoy
configuration over xDS: mutual TLS between services, and only the connections that intentions allow.

  sallyport serve --catalog ./catalog --data ./data     the control plane, from a directory of files
  sallyport envoy --sidecar-for web                     a sidecar: bootstrap, then Envoy
  sallyport status                                      what every sidecar runs, and what it refused
  sallyport intention check web api                     allowed or denied, why, and from which file:line`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          help,
	}
	var o clientOptions
	root.PersistentPreRunE = func(*cobra.Command, []string) (err error) {
		if o.runtimeDir != "" { // what is asked there, and written there, is used from other directories too
			o.runtimeDir, err = filepath.Abs(o.runtimeDir)
		}
		return err
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w: see `%s --help`", err, c.CommandPath())
	})
	root.PersistentFlags().StringVar(&o.runtimeDir, "runtime-dir", os.Getenv("SALLYPORT_RUNTIME_DIR"),
		"directory of the sockets (SALLYPORT_RUNTIME_DIR; default "+admin.SystemDir+" for root, else under XDG_RUNTIME_DIR, else a directory of the user's own)")
	root.AddCommand(
		newServeCommand(),
		newEnvoyCommand(&o),
		newBootstrapCommand(&o),
		newStatusCommand(&o),
		newChangeCommand(&o),
		newIntentionCommand(&o),
		newLeafCommand(&o),
		newConsulCommand(),
		newValidateCommand(),
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				_, err := fmt.Fprintln(c.OutOrStdout(), "sallyport", versionText())
				return err
			},
		},
	)
	return root
}

// help is what a command does that only holds others. With arguments it does not get here:
// cobra.NoArgs calls them unknown commands.
func help(c *cobra.Command, _ []string) error { return c.Help() }

// exactly takes as many arguments as there are names.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return fmt.Errorf("%s takes %s, and was given %d arguments: see `%s --help`", c.CommandPath(), strings.Join(names, " and "), len(args), c.CommandPath())
	}
}

// versionText is the version and, where the build knows it, the commit.
func versionText() string {
	rev := commit
	if info, ok := debug.ReadBuildInfo(); ok && rev == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				rev = s.Value
			}
		}
	}
	if len(rev) > 12 {
		rev = rev[:12]
	}
	if rev == "" {
		return version
	}
	return version + " (" + rev + ")"
}
