package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/internal/netns"
)

// Envoy is the one that Run starts.
type Envoy struct {
	// Binary is its path or name; empty: $ENVOY, else envoy on PATH.
	Binary string
	// Strict refuses one that lacks known security fixes; else there is a warning of it.
	Strict bool
	// Args are given to it beside those that it has to have.
	Args []string
}

// Run runs the Envoy of a proxy until it ends, and returns its exit status, as a shell would: 128
// and the signal's number if a signal ended it. Afterwards it removes the files, unless Config.Dir
// says where they are. SIGTERM, SIGINT and the end of ctx end Envoy;
// SIGUSR1 is passed on.
func Run(ctx context.Context, c Config, e Envoy, log *slog.Logger) (status int, err error) {
	if err := checkArgs(e.Args); err != nil {
		return 0, err
	}
	binary, err := findEnvoy(e.Binary, os.Getenv("ENVOY"))
	if err != nil {
		return 0, err
	}
	version, err := envoyVersion(ctx, binary)
	if err != nil {
		return 0, err
	}
	if err := checkVersion(version, e.Strict); err != nil {
		return 0, fmt.Errorf("%s: %w", binary, err)
	}
	if floor := version.SecurityFloor(); version.Compare(floor) < 0 {
		log.Warn("envoy lacks security fixes: upgrade it", "version", version.String(), "fixed_in", floor.String())
	}
	c.Network = cmp.Or(c.Network, netns.ID())
	s, err := open(ctx, c, Target{Version: version})
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.lock.Close() }()
	log = log.With("proxy", s.Proxy.ProxyID)
	if s.Anonymous() && !s.Proxy.ACLsOff {
		log.Warn("no token given: the proxy is whoever Consul's anonymous token is: give one with --token-file, CONSUL_HTTP_TOKEN_FILE or CONSUL_HTTP_TOKEN")
	}
	if err := probeListeners(ctx, slices.Concat(bootstrapListeners(s.params), s.Proxy.Listeners)); err != nil {
		return 0, err
	}

	if c.Dir == "" {
		defer removeFiles(s.Dir, s.Proxy.ProxyID)
	}
	if s.Refused != nil {
		return 0, s.Refused
	}
	beside, end := context.WithCancel(ctx)
	var running sync.WaitGroup
	lost := make(chan struct{}, 1)
	running.Go(func() { s.renewToken(beside, c.TokenTTL, lost, log) })
	running.Go(func() {
		s.watchApplication(beside, log, func() {
			select {
			case lost <- struct{}{}:
			default: // it is asked for already
			}
		})
	})
	defer running.Wait()
	defer end()

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)
	log.Info("starting envoy", "service", s.Proxy.Service, "version", version.String(), "origin", s.Proxy.Origin, "file", bootstrapPath(s.Dir))
	return supervisor{
		log: log, path: binary, args: slices.Concat(s.Args, logging(e.Args), e.Args), stdout: os.Stdout, stderr: os.Stderr, grace: stopGrace,
	}.run(ctx, signals)
}

// renewToken keeps the token in the sidecar's directory fresh until ctx ends. lost says that Envoy
// does not reach the control plane.
func (s *Sidecar) renewToken(ctx context.Context, ttl time.Duration, lost <-chan struct{}, log *slog.Logger) {
	if s.Proxy.OwnToken {
		s.own.follow(ctx, s.Proxy.Token, s.writeToken, log)
		return
	}
	again := admin.TokenRequest{ProxyID: s.Proxy.ProxyID, TTL: ttl}
	renewal{
		log: log, write: s.writeToken, lost: lost,
		mint: func(ctx context.Context) (admin.TokenResponse, error) { return s.client.Token(ctx, again) },
	}.run(ctx, s.Proxy.Expires)
}

// findEnvoy is the path of the binary: the flag's, the variable's, or the one on PATH.
func findEnvoy(flag, variable string) (string, error) {
	path, err := exec.LookPath(cmp.Or(flag, variable, "envoy"))
	switch {
	case err == nil:
		return path, nil
	case flag != "":
		return "", fmt.Errorf("--envoy-binary: %w: name the path of Envoy's binary", err)
	case variable != "":
		return "", fmt.Errorf("$ENVOY: %w: set it to the path of Envoy's binary, or unset it to take the one on PATH", err)
	}
	return "", fmt.Errorf("no envoy on PATH: install Envoy %s or newer (envoyproxy.io tells how, and `make tools` in a checkout of sallyport fetches one into .tools), or name one with --envoy-binary or $ENVOY", bootstrap.Minimum())
}

// envoyVersion asks a binary for its version.
func envoyVersion(ctx context.Context, binary string) (bootstrap.Version, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		err = fmt.Errorf("%w: %.200s", err, exit.Stderr)
	}
	var v bootstrap.Version
	if err == nil {
		v, err = bootstrap.ParseVersion(string(out))
	}
	if err != nil {
		return v, fmt.Errorf("%s --version: %w", binary, err)
	}
	return v, nil
}

// checkVersion refuses an Envoy that is not supported and, if strict, one that lacks known security
// fixes.
func checkVersion(v bootstrap.Version, strict bool) error {
	if !v.Supported() {
		return fmt.Errorf("envoy %s is too old: %s is the oldest that is supported", v, bootstrap.Minimum())
	}
	if floor := v.SecurityFloor(); strict && v.Compare(floor) < 0 {
		return fmt.Errorf("envoy %s lacks security fixes that %s has: upgrade it", v, floor)
	}
	return nil
}

// logging are the arguments that have Envoy log warnings alone, unless args say what it logs: at its
// own default it writes some hundred lines before it serves anything. Where args have it log all, the
// component that would log the token's file, and with it the token, is left out, unless args name that.
func logging(args []string) (add []string) {
	level, components := "", ""
	for i, a := range args {
		name, value, joined := strings.Cut(a, "=")
		if !joined && i+1 < len(args) {
			value = args[i+1]
		}
		switch name {
		case "--log-level", "-l":
			level = value
		case "--component-log-level":
			components = value
		}
	}
	switch {
	case level == "":
		return []string{"--log-level", "warning"}
	case components == "" && (level == "debug" || level == "trace"):
		return []string{"--component-log-level", "config:info"}
	}
	return nil
}

// checkArgs refuses what sallyport sets itself; Envoy would only say that it was set twice.
func checkArgs(args []string) error {
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		switch name {
		case "--drain-time-s":
			return errors.New("argument of Envoy --drain-time-s: use --drain-time before the --, so that the control plane knows too")
		case "-c", "--config-path", "--drain-strategy", "--disable-hot-restart":
			return fmt.Errorf("argument of Envoy %s: sallyport sets it itself: leave it out", name)
		case "--restart-epoch", "--hot-restart-version", "--parent-shutdown-time-s":
			return fmt.Errorf("argument of Envoy %s: hot restart does not work under sallyport: leave it out", name)
		}
	}
	return nil
}
