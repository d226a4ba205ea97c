package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/ca/plugin"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func newConformanceCommand() *cobra.Command {
	cfg := plugin.Config{Name: "under test", Server: remote.Config{CAOption: "--ca-file"}}
	var trustDomain string
	c := &cobra.Command{
		Use:   "conformance [flags] {-- COMMAND [ARGUMENT…] | --url URL}",
		Short: "Ask a plug-in whether it keeps the contract",
		Long: `Conformance asks a plug-in all that sallyport asks it, and what it should refuse, and prints for each check whether it was passed, and what to mend.
The exit status is 1 if one was not. A dozen certificates are signed, for keys that are thrown away. It needs no control plane.

The contract is docs/certificates/plug-in.md. A COMMAND is run as "sallyport serve" runs it: in /, with PATH, HOME, TMPDIR and --env alone.`,
		Example: `  sallyport ca conformance --env CA_DIR=/etc/mesh-ca -- /usr/local/lib/sallyport/openssl.sh
  sallyport ca conformance --url unix:///run/mesh-ca/plugin.sock --uid 990`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && cfg.Server.URL == "":
				return errors.New("name the plug-in: `sallyport ca conformance -- COMMAND`, or --url")
			case len(args) > 0 && cfg.Server.URL != "":
				return errors.New("--url: there is a command, too: give one of them")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if cfg.TrustDomain, err = spiffeid.TrustDomainFromString(trustDomain); err != nil {
				return fmt.Errorf("--trust-domain: %w", err)
			}
			if cfg.Logger, err = newLogger("auto", "info", os.Stderr, adviceOf(c.Flags())); err != nil {
				return err
			}
			if len(args) > 0 {
				if cfg.Command, err = fromHere(args); err != nil {
					return err
				}
			}
			return printConformance(c, cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Server.URL, "url", "", "https:// or unix:/// URL of the plug-in")
	f.StringVar(&trustDomain, "trust-domain", "mesh.example", "the trust domain that certificates are asked for")
	f.StringArrayVar(&cfg.Env, "env", nil, "NAME=VALUE for the command; may be given several times")
	f.DurationVar(&cfg.Timeout, "timeout", 30*time.Second, "how long an answer may take")
	f.IntSliceVar(&cfg.Server.UIDs, "uid", nil, "user ID, or several with commas, that may answer at the Unix socket")
	f.StringVar(&cfg.TokenFile, "token-file", "", "file with the bearer token for the URL")
	f.StringVar(&cfg.Server.CAFile, "ca-file", "", "CA of the URL's certificate")
	f.StringVar(&cfg.Server.CertFile, "client-cert", "", "certificate to show at the URL")
	f.StringVar(&cfg.Server.KeyFile, "client-key", "", "its key")
	return c
}

// fromHere is a command of which the program is found from another directory, too.
func fromHere(args []string) ([]string, error) {
	if strings.ContainsRune(args[0], filepath.Separator) {
		path, err := filepath.Abs(args[0])
		return append([]string{path}, args[1:]...), err
	}
	if _, err := exec.LookPath(args[0]); err != nil {
		return nil, fmt.Errorf("%w: write ./%s for one of this directory", err, args[0])
	}
	return args, nil
}

// printConformance prints each check as it is made.
func printConformance(c *cobra.Command, cfg plugin.Config) error {
	w := c.OutOrStdout()
	p := newPainter(w, adviceOf(c.Flags()))
	var passed, failed, skipped int
	err := plugin.Conform(c.Context(), cfg, func(check plugin.Check) {
		switch {
		case check.Skipped:
			skipped++
			fmt.Fprintf(w, "%s  %s: %v\n", p.paint(yellow, "not run"), check.Name, check.Err)
		case check.Err != nil:
			failed++
			fmt.Fprintf(w, "%s   %s\n", p.paint(red, "failed"), check.Name)
			for line := range strings.Lines(check.Err.Error()) {
				fmt.Fprintf(w, "         %s\n", strings.TrimSpace(line))
			}
			fmt.Fprintf(w, "         to mend it: %s\n", check.Mend)
		default:
			passed++
			fmt.Fprintf(w, "%s       %s\n", p.paint(green, "ok"), check.Name)
		}
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: %d ok, %d failed, %d not run\n", count(passed+failed+skipped, "check"), passed, failed, skipped)
	if failed > 0 {
		return exitError(1)
	}
	return nil
}
