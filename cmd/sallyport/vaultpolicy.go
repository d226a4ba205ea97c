package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/ca/vault"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/spf13/cobra"
	"github.com/spf13/viper"
)

func newVaultPolicyCommand() *cobra.Command {
	// Nobody is asked.
	cfg := vault.Config{Server: remote.Config{URL: "https://127.0.0.1:8200"}, Login: &vault.Token{Text: "none"}}
	file := ""
	c := &cobra.Command{
		Use:   "vault-policy [PROVIDER]",
		Short: "Print the policy that the token needs in Vault or OpenBao, all of it",
		Long: `Vault-policy prints a policy in HCL, for "vault policy write" or "bao policy write". With it alone, without Vault's default policy, the token of ca_config
can do what it is for, and nothing else. Mount, issuer and role are those of the configuration file of "sallyport serve", if there is one: of PROVIDER,
which need not be said where there is one Vault. The token need not exist yet.`,
		Example: `  sallyport ca vault-policy --config /etc/sallyport/sallyport.yaml | vault policy write sallyport -
  sallyport ca vault-policy --mount pki | vault policy write sallyport -`,
		Args: between(0, "PROVIDER"),
		RunE: func(c *cobra.Command, args []string) error {
			said := func(name string) bool { return c.Flags().Changed(name) }
			if !said("mount") && !said("issuer") && !said("leaf-role") {
				file = cmp.Or(file, os.Getenv("SALLYPORT_CONFIG"))
			} else if file != "" {
				return errors.New("--config says mount, issuer and role: leave out either that or --mount, --issuer and --leaf-role")
			}
			if file != "" {
				var err error
				if cfg.Mount, cfg.Issuer, cfg.LeafRole, err = configuredVault(file, strings.Join(args, "")); err != nil {
					return err
				}
			} else if len(args) > 0 {
				return fmt.Errorf("%s: whose provider? --config names the file of `sallyport serve`", args[0])
			}
			v, err := vault.New(cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.OutOrStdout(), v.Policy())
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration file of sallyport serve (SALLYPORT_CONFIG) that has mount, issuer and role")
	f.StringVar(&cfg.Mount, "mount", "pki", "path of the PKI secrets engine that signs (RootPKIPath; with --leaf-role IntermediatePKIPath)")
	f.StringVar(&cfg.Issuer, "issuer", "", "the issuer in it that signs, where that is not its default (Issuer)")
	f.StringVar(&cfg.LeafRole, "leaf-role", "", "the role by which each leaf is signed there (LeafRole)")
	return c
}

// configuredVault reads what a policy depends on of a provider in a configuration file; an empty name is that of the only Vault. Other
// mistakes of the file are none here: the policy comes first, then the token.
func configuredVault(file, name string) (mount, issuer, leafRole string, err error) {
	v := viper.New()
	if err := readConfigFile(v, file); err != nil {
		return "", "", "", err
	}
	s, err := serveConfig{CAProvider: v.GetString("ca_provider"), CAConfig: v.Get("ca_config"), CAProviders: v.Get("ca_providers")}.caSettings()
	var names []string
	for _, p := range s.providers {
		if p.kind != "vault" {
			continue
		}
		names = append(names, p.name)
		if p.name == name || name == "" {
			mount, issuer, leafRole = p.options.vaultPaths()
		}
	}
	slices.Sort(names)
	switch {
	case len(s.providers) == 0 && err != nil:
		return "", "", "", fmt.Errorf("%s: %w", file, err)
	case len(names) == 0:
		return "", "", "", fmt.Errorf("%s: no provider in it is a Vault: ca_provider and ca_providers name them", file)
	case name == "" && len(names) > 1:
		return "", "", "", fmt.Errorf("%s: there are several, say which one: %s", file, strings.Join(names, ", "))
	case name != "" && !slices.Contains(names, name):
		return "", "", "", fmt.Errorf("%s: %.50q is no Vault of it: there are %s", file, name, strings.Join(names, ", "))
	case mount == "":
		return "", "", "", fmt.Errorf("%s: the path of the PKI secrets engine is missing: RootPKIPath, or IntermediatePKIPath with LeafRole", file)
	}
	return mount, issuer, leafRole, nil
}
