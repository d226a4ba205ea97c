package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/spf13/cobra"
)

// bootstrapTokenTTL is how long a token lives that nobody renews.
const bootstrapTokenTTL = 720 * time.Hour

type bootstrapOptions struct {
	sidecarOptions
	envoyVersion string
	xdsAddress   string
	targetDir    string
}

func newBootstrapCommand(client *clientOptions) *cobra.Command {
	var o bootstrapOptions
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
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return runBootstrap(c.Context(), client.runtimeDir, o, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	o.addFlags(c, bootstrapTokenTTL, "life of the token")
	f := c.Flags()
	f.StringVar(&o.envoyVersion, "envoy-version", "", "version of the Envoy that will read the bootstrap (default: it may be any that is supported)")
	f.StringVar(&o.xdsAddress, "xds-address", "", "host:port of the control plane's TLS endpoint, for an Envoy on another machine")
	f.StringVar(&o.targetDir, "target-dir", "", "directory in which Envoy will find the files (default: the one they are written to)")
	return c
}

func runBootstrap(ctx context.Context, runtimeDir string, o bootstrapOptions, out, waiting io.Writer) error {
	var version bootstrap.Version
	if o.envoyVersion != "" {
		var err error
		if version, err = bootstrap.ParseVersion(o.envoyVersion); err != nil {
			return fmt.Errorf("--envoy-version: %w", err)
		}
	}
	if o.targetDir != "" && !filepath.IsAbs(o.targetDir) {
		return fmt.Errorf("--target-dir %q: expected a full path", o.targetDir)
	}
	request, err := o.request()
	if err != nil {
		return err
	}
	client, r, err := o.token(ctx, runtimeDir, request, func(err error) { fmt.Fprintln(waiting, "waiting:", err) })
	if err != nil {
		return err
	}
	if _, err := o.complete(&r); err != nil {
		return err
	}
	dir, release, err := o.openDir(client.Dir(), r.ProxyID)
	if err != nil {
		return err
	}
	defer release()
	target := dir
	if o.targetDir != "" {
		target = filepath.Clean(o.targetDir)
	}
	params, err := o.params(r, target, version)
	if err != nil {
		return err
	}
	if o.xdsAddress != "" {
		if err := useRemote(&params, r, o.xdsAddress); err != nil {
			return err
		}
	}
	if _, err := writeSidecar(dir, r.Token, params); err != nil {
		return err
	}
	return describe(out, dir, target, r, params, time.Now())
}

// describe says what was written and how Envoy is started with it.
func describe(out io.Writer, dir, target string, r admin.TokenResponse, p bootstrap.Params, now time.Time) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Wrote bootstrap.json and token.json of %s (service %s) to %s\n", r.ProxyID, r.Service, dir)
	if target != dir {
		fmt.Fprintf(&b, "Copy both to %s, for Envoy's user alone to read\n", target)
	}
	switch {
	case r.OwnToken && r.Token == anonymous:
		b.WriteString("No token was given: the proxy is whoever Consul's anonymous token is (--token-file, CONSUL_HTTP_TOKEN_FILE or CONSUL_HTTP_TOKEN give one)\n")
	case r.OwnToken:
		b.WriteString("The token is the proxy's own Consul token as it is now: when it is replaced, run this command again\n")
	default:
		fmt.Fprintf(&b, "The token ends at %s, in %s: run this command again before that\n", r.Expires.UTC().Format(time.RFC3339), days(r.Expires.Sub(now)))
	}
	words := append([]string{"envoy"}, bootstrap.Args(p, bootstrapPath(target))...)
	for i, w := range words {
		words[i] = shellWord(w)
	}
	fmt.Fprintf(&b, "Start Envoy with all of these flags:\n\n  %s\n", strings.Join(words, " "))
	_, err := io.WriteString(out, b.String())
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
