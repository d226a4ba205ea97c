package main

import (
	"fmt"
	"os"

	"github.com/sallyport/sallyport/sidecar"
	"github.com/spf13/cobra"
)

func newEnvoyCommand(client *clientOptions) *cobra.Command {
	var config sidecar.Config
	var envoy sidecar.Envoy
	c := &cobra.Command{
		Use:   "envoy --sidecar-for INSTANCE [-- ENVOY ARGS]",
		Short: "Run a sidecar: bootstrap, then Envoy, and a fresh token for as long as it runs",
		Long: `Envoy asks the control plane on this machine for the proxy's token, writes the bootstrap and the token (mode 0600), checks that
nobody else has the ports that Envoy will listen on, and runs Envoy as its child with the flags that the mesh relies on. It renews the
token at two thirds of its life, without a restart. Envoy's exit status is its own. Envoy logs warnings alone; "-- --log-level info" has it
log more. An application that does not answer is named in the log and in "sallyport status".

The binary is --envoy-binary, else $ENVOY, else "envoy" on PATH. SIGTERM and SIGINT end Envoy; SIGUSR1 has it open its access
logs anew. Only root, the control plane's own user and the user that the proxy's definition names get a token.`,
		Example: `  sallyport envoy --sidecar-for web
  sallyport envoy --sidecar-for web --envoy-binary /opt/envoy -- --concurrency 2 --log-level info
  sallyport envoy --sidecar-for web --admin-bind 127.0.0.1:19000`,
		Args: afterDash,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkWhose(c, config); err != nil {
				return err
			}
			log, err := newLogger("auto", "info", os.Stderr, adviceOf(c.Flags()))
			if err != nil {
				return err
			}
			envoy.Args, config.RuntimeDir = args, client.runtimeDir
			if config.RuntimeOwners, err = client.owners(); err != nil {
				return err
			}
			config.Waiting = func(err error) { log.Info("waiting for the control plane", "err", err) }
			status, err := sidecar.Run(c.Context(), config, envoy, log)
			if err == nil && status != 0 {
				err = exitError(status)
			}
			return err
		},
	}
	sidecarFlags(c, client, &config, 0, "life of the token, renewed at two thirds of it (default: what the control plane is configured to)")
	c.Flags().StringVar(&envoy.Binary, "envoy-binary", "", `Envoy's binary (default: $ENVOY, else "envoy" on PATH)`)
	c.Flags().BoolVar(&envoy.Strict, "strict-envoy-version", false, "refuse an Envoy that lacks known security fixes rather than warn of it")
	return c
}

// afterDash accepts arguments after -- alone.
func afterDash(c *cobra.Command, args []string) error {
	if at := c.ArgsLenAtDash(); len(args) > 0 && at != 0 {
		return fmt.Errorf("unexpected argument %q: arguments of Envoy come after --", args[0])
	}
	return nil
}
