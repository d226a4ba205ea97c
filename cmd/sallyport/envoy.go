package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/spf13/cobra"
)

type envoyOptions struct {
	sidecarOptions
	binary string
	strict bool
	args   []string // of Envoy, after --
}

func newEnvoyCommand(client *clientOptions) *cobra.Command {
	var o envoyOptions
	c := &cobra.Command{
		Use:   "envoy --sidecar-for INSTANCE [-- ENVOY ARGS]",
		Short: "Run a sidecar: bootstrap, then Envoy, and a fresh token for as long as it runs",
		Long: `Envoy asks the control plane on this machine for the proxy's token, writes the bootstrap and the token (mode 0600), checks that
nobody else has the ports that Envoy will listen on, and runs Envoy as its child with the flags that the mesh relies on. It renews the
token at two thirds of its life, without a restart. Envoy's exit status is its own.

The binary is --envoy-binary, else $ENVOY, else "envoy" on PATH. SIGTERM and SIGINT end Envoy; SIGUSR1 has it open its access
logs anew. Only root, the control plane's own user and the user that the proxy's definition names get a token.`,
		Example: `  sallyport envoy --sidecar-for web
  sallyport envoy --sidecar-for web --envoy-binary /opt/envoy -- --concurrency 2 --log-level warning
  sallyport envoy --sidecar-for web --admin-bind 127.0.0.1:19000`,
		Args: afterDash,
		RunE: func(c *cobra.Command, args []string) error {
			o.args = args
			log, err := newLogger("auto", "info", os.Stderr)
			if err != nil {
				return err
			}
			return runEnvoy(c.Context(), client.runtimeDir, o, log)
		},
	}
	o.addFlags(c, 0, "life of the token, renewed at two thirds of it (default: what the control plane is configured to)")
	c.Flags().StringVar(&o.binary, "envoy-binary", "", `Envoy's binary (default: $ENVOY, else "envoy" on PATH)`)
	c.Flags().BoolVar(&o.strict, "strict-envoy-version", false, "refuse an Envoy that lacks known security fixes rather than warn of it")
	return c
}

// afterDash accepts arguments after -- alone.
func afterDash(c *cobra.Command, args []string) error {
	if at := c.ArgsLenAtDash(); len(args) > 0 && at != 0 {
		return fmt.Errorf("unexpected argument %q (arguments of Envoy come after --)", args[0])
	}
	return nil
}

func runEnvoy(ctx context.Context, runtimeDir string, o envoyOptions, log *slog.Logger) error {
	if err := checkEnvoyArgs(o.args); err != nil {
		return err
	}
	binary, err := findEnvoy(o.binary, os.Getenv("ENVOY"))
	if err != nil {
		return err
	}
	version, err := envoyVersion(ctx, binary)
	if err != nil {
		return err
	}
	if err := gate(version, o.strict); err != nil {
		return fmt.Errorf("%s: %w", binary, err)
	}
	if floor := version.SecurityFloor(); version.Compare(floor) < 0 {
		log.Warn("this envoy lacks security fixes: upgrade it", "version", version.String(), "fixed_in", floor.String())
	}

	request, err := o.request()
	if err != nil {
		return err
	}
	client, first, err := o.token(ctx, runtimeDir, request, func(err error) { log.Info("waiting for the control plane", "err", err) })
	if err != nil {
		return err
	}
	own, err := o.complete(&first)
	if err != nil {
		return err
	}
	log = log.With("proxy", first.ProxyID)
	if first.OwnToken && first.Token == anonymous {
		log.Warn("no token given: the proxy is whoever Consul's anonymous token is (--token-file, CONSUL_HTTP_TOKEN_FILE or CONSUL_HTTP_TOKEN give one)")
	}
	dir, release, err := o.openDir(client.Dir(), first.ProxyID)
	if err != nil {
		return err
	}
	defer release()
	params, err := o.params(first, dir, version)
	if err != nil {
		return err
	}
	config, err := writeSidecar(dir, first.Token, params)
	if err != nil {
		return err
	}
	if err := probeListeners(ctx, slices.Concat(bootstrapListeners(params), first.Listeners)); err != nil {
		return err
	}

	renewals, stopRenewals := context.WithCancel(ctx)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		if first.OwnToken {
			own.follow(renewals, first.Token, func(token string) error { return writeToken(dir, token) }, log)
			return
		}
		again := admin.TokenRequest{ProxyID: first.ProxyID, TTL: request.TTL}
		renewal{
			log:   log,
			mint:  func(ctx context.Context) (admin.TokenResponse, error) { return client.Token(ctx, again) },
			write: func(token string) error { return writeToken(dir, token) },
		}.run(renewals, first.Expires)
	}()
	defer func() { stopRenewals(); <-renewed }()

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)
	log.Info("starting envoy", "service", first.Service, "version", version.String(), "origin", first.Origin, "file", config)
	status, err := supervisor{
		log: log, path: binary, args: slices.Concat(bootstrap.Args(params, config), o.args), stdout: os.Stdout, stderr: os.Stderr, grace: stopGrace,
	}.run(ctx, signals)
	if err != nil {
		return err
	}
	if status != 0 {
		return exitError(status)
	}
	return nil
}

// openDir makes the sidecar's directory and locks it.
func (o *sidecarOptions) openDir(runtimeDir, proxyID string) (dir string, release func(), err error) {
	if o.dir != "" {
		dir, err = filepath.Abs(o.dir)
	} else {
		dir, err = sidecarDir(runtimeDir, proxyID)
	}
	if err != nil {
		return "", nil, err
	}
	if err := makeSidecarDir(dir); err != nil {
		return "", nil, err
	}
	release, err = lockSidecar(dir, proxyID)
	return dir, release, err
}

// findEnvoy is the path of the binary: the flag's, the variable's, or the one on PATH.
func findEnvoy(flag, variable string) (string, error) {
	for _, named := range []struct{ by, path string }{{"--envoy-binary", flag}, {"$ENVOY", variable}} {
		if named.path == "" {
			continue
		}
		path, err := exec.LookPath(named.path)
		if err != nil {
			return "", fmt.Errorf("%s: %w", named.by, err)
		}
		return path, nil
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		return "", fmt.Errorf("no envoy on PATH: install Envoy %s or newer (envoyproxy.io tells how, and `make tools` in a checkout of sallyport fetches one into .tools), or name one with --envoy-binary or $ENVOY", bootstrap.Minimum())
	}
	return path, nil
}

// envoyVersion asks a binary for its version.
func envoyVersion(ctx context.Context, binary string) (bootstrap.Version, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			err = fmt.Errorf("%w: %.200s", err, exit.Stderr)
		}
		return bootstrap.Version{}, fmt.Errorf("%s --version: %w", binary, err)
	}
	v, err := bootstrap.ParseVersion(string(out))
	if err != nil {
		return bootstrap.Version{}, fmt.Errorf("%s --version: %w", binary, err)
	}
	return v, nil
}

// gate refuses an Envoy that is not supported and, if strict, one that lacks known security fixes.
func gate(v bootstrap.Version, strict bool) error {
	if !v.Supported() {
		return fmt.Errorf("envoy %s is too old: %s is the oldest that is supported", v, bootstrap.Minimum())
	}
	if floor := v.SecurityFloor(); strict && v.Compare(floor) < 0 {
		return fmt.Errorf("envoy %s lacks security fixes that %s has: upgrade it", v, floor)
	}
	return nil
}

// checkEnvoyArgs refuses what sallyport sets itself; Envoy would only say that it was set twice.
func checkEnvoyArgs(args []string) error {
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		switch name {
		case "--drain-time-s":
			return errors.New("argument of Envoy --drain-time-s: use --drain-time before the --, so that the control plane knows too")
		case "-c", "--config-path", "--drain-strategy", "--disable-hot-restart":
			return fmt.Errorf("argument of Envoy %s: sallyport sets it itself", name)
		case "--restart-epoch", "--hot-restart-version", "--parent-shutdown-time-s":
			return fmt.Errorf("argument of Envoy %s: hot restart does not work under sallyport", name)
		}
	}
	return nil
}
