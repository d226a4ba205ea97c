package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
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
		Args:          subcommand,
		RunE:          help,
		Version:       versionText(),
	}
	var o clientOptions
	root.PersistentPreRunE = func(*cobra.Command, []string) (err error) {
		if o.runtimeDir != "" { // what is asked there, and written there, is used from other directories too
			o.runtimeDir, err = filepath.Abs(o.runtimeDir)
		}
		return err
	}
	root.SetVersionTemplate("sallyport {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().StringVar(&o.runtimeDir, "runtime-dir", os.Getenv("SALLYPORT_RUNTIME_DIR"),
		"directory of the sockets (SALLYPORT_RUNTIME_DIR; default "+admin.SystemDir+" for root, else under XDG_RUNTIME_DIR, else a directory of the user's own)")
	root.PersistentFlags().StringVar(&o.owner, "runtime-owner", os.Getenv("SALLYPORT_RUNTIME_OWNER"),
		"user, besides root and the one who asks, whose --runtime-dir is trusted (SALLYPORT_RUNTIME_OWNER)")
	root.AddCommand(
		newServeCommand(),
		newEnvoyCommand(&o),
		newBootstrapCommand(&o),
		newStatusCommand(&o),
		newCheckCommand(&o),
		newChangeCommand(&o),
		newIntentionCommand(&o),
		newChainCommand(&o),
		newLeafCommand(&o),
		newRevokeCommand(&o),
		newUnrevokeCommand(&o),
		newRevokedCommand(&o),
		newCACommand(&o),
		newSVIDCommand(&o),
		newBundleCommand(&o),
		newTokenCommand(&o),
		newConsulCommand(),
		newValidateCommand(),
		newVersionCommand(),
	)
	return root
}

func newVersionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(c, map[string]string{"version": versionText()})
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), "sallyport", versionText())
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// help is what a command does that only holds others. With arguments it does not get here:
// noArguments calls them unknown commands.
func help(c *cobra.Command, _ []string) error { return c.Help() }

// noArguments takes none.
func noArguments(c *cobra.Command, args []string) error { return exactly()(c, args) }

// exactly takes as many arguments as there are names.
func exactly(names ...string) cobra.PositionalArgs { return between(len(names), names...) }

// between takes a first part of names, least of them at least.
func between(least int, names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if n := len(args); n >= least && n <= len(names) {
			return nil
		}
		takes := strings.Join(names, " and ")
		switch {
		case len(names) == 0:
			takes = "no arguments"
		case least < len(names):
			takes = "at most " + takes
		}
		return fmt.Errorf("%s takes %s, and was given %s: see `%s --help`", c.CommandPath(), takes, count(len(args), "argument"), c.CommandPath())
	}
}

// buildInfo is a metric that says which binary this is.
func buildInfo() prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sallyport_build_info", Help: "1; the labels say which binary this is.",
		ConstLabels: prometheus.Labels{"version": version, "commit": revision(), "go_version": runtime.Version()},
	})
	info.Set(1)
	return info
}

// revision is the commit that the binary was built from; empty where the build does not say.
func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok && commit == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return commit
}

// versionText is the version and, where the build knows it, the commit.
func versionText() string {
	rev := revision()
	if len(rev) > 12 {
		rev = rev[:12]
	}
	if rev == "" {
		return version
	}
	return version + " (" + rev + ")"
}
