package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/sidecar"
	"github.com/spf13/cobra"
)

// bootstrapTokenTTL is how long a token lives that nobody renews.
const bootstrapTokenTTL = 720 * time.Hour

func newBootstrapCommand(client *clientOptions) *cobra.Command {
	var config sidecar.Config
	var target sidecar.Target
	var version string
	var asJSON bool
	c := &cobra.Command{
		Use:   "bootstrap --sidecar-for INSTANCE [-o DIR]",
		Short: "Write a bootstrap and a token for an Envoy that somebody else starts",
		Long: `Bootstrap writes DIR/bootstrap.json and DIR/token.json (mode 0600) and prints how to start Envoy with them: the flags
belong to it, for they bound how long a revocation takes. Nobody renews the token, so it lives longer than that of "sallyport envoy": run
the command again before it ends; a running Envoy takes the new token without a restart.

For an Envoy on another machine name the control plane's TLS endpoint with --xds-address, and with --target-dir the directory
there that the two files will be copied to.`,
		Example: `  sallyport bootstrap --sidecar-for web -o ./web
  sallyport bootstrap --sidecar-for web -o ./web --xds-address cp.example.com:8502 --target-dir /etc/envoy --envoy-version 1.40.0`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkWhose(c, config); err != nil {
				return err
			}
			if version != "" {
				var err error
				if target.Version, err = bootstrap.ParseVersion(version); err != nil {
					return fmt.Errorf("--envoy-version: %w", err)
				}
			}
			if target.Dir != "" && !filepath.IsAbs(target.Dir) {
				return fmt.Errorf("--target-dir %q: expected a full path", target.Dir)
			}
			config.RuntimeDir = client.runtimeDir
			var err error
			if config.RuntimeOwners, err = client.owners(); err != nil {
				return err
			}
			config.Waiting = func(err error) { fmt.Fprintln(c.ErrOrStderr(), "waiting:", err) }
			s, err := sidecar.Write(c.Context(), config, target)
			if err != nil {
				return err
			}
			if s.Refused != nil {
				fmt.Fprintln(c.ErrOrStderr(), "warning: Envoy will not be served as long as this holds:", s.Refused)
			}
			if asJSON {
				return printJSON(c, map[string]any{
					"proxy": s.Proxy.ProxyID, "service": s.Proxy.Service, "directory": s.Dir, "expires": s.Proxy.Expires, "envoy_args": s.Args,
				})
			}
			return describe(c.OutOrStdout(), s, target.Dir, time.Now())
		},
	}
	sidecarFlags(c, client, &config, bootstrapTokenTTL, "life of the token")
	f := c.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.StringVar(&version, "envoy-version", "", "version of the Envoy that will read the bootstrap (default: it may be any that is supported)")
	f.StringVar(&target.XDSAddress, "xds-address", "", "host:port of the control plane's TLS endpoint, for an Envoy on another machine")
	f.StringVar(&target.Dir, "target-dir", "", "directory in which Envoy will find the files (default: the one they are written to)")
	return c
}

// describe says what was written and how Envoy is started with it. target is where the files go;
// empty: they stay.
func describe(out io.Writer, s *sidecar.Sidecar, target string, now time.Time) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Wrote bootstrap.json and token.json of %s (service %s) to %s\n", s.Proxy.ProxyID, s.Proxy.Service, s.Dir)
	if target != "" && filepath.Clean(target) != s.Dir {
		fmt.Fprintf(&b, "Copy both to %s, for Envoy's user alone to read\n", target)
	}
	switch {
	case s.Anonymous():
		b.WriteString("No token was given: the proxy is whoever Consul's anonymous token is: give one with --token-file, CONSUL_HTTP_TOKEN_FILE or CONSUL_HTTP_TOKEN\n")
	case s.Proxy.OwnToken:
		b.WriteString("The token is the proxy's own Consul token as it is now: when it is replaced, run this command again\n")
	default:
		fmt.Fprintf(&b, "The token ends at %s, in %s: run this command again before that\n", s.Proxy.Expires.UTC().Format(time.RFC3339), days(s.Proxy.Expires.Sub(now)))
	}
	b.WriteString("Start Envoy with all of these flags:\n\n  envoy")
	for _, arg := range s.Args {
		b.WriteString(" " + shellWord(arg))
	}
	_, err := fmt.Fprintln(out, b.String())
	return err
}

// days is a duration in the unit in which people think of it.
func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%d days", int(d.Round(24*time.Hour)/(24*time.Hour)))
}

// shellWord quotes s for a shell if it needs it.
func shellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@%+,") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
