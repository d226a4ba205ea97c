package main

import (
	"fmt"

	"github.com/sallyport/sallyport/ca/vault"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/spf13/cobra"
)

func newVaultPolicyCommand() *cobra.Command {
	// Nobody is asked.
	cfg := vault.Config{Server: remote.Config{URL: "https://127.0.0.1:8200"}, Login: &vault.Token{Text: "none"}}
	c := &cobra.Command{
		Use:   "vault-policy",
		Short: "Print the policy that the token needs in Vault or OpenBao, all of it",
		Long: `Vault-policy prints a policy in HCL, for "vault policy write" or "bao policy write". With it alone, without Vault's default policy, the token of ca_config
can do what it is for, and nothing else.`,
		Example: `  sallyport ca vault-policy --mount pki | vault policy write sallyport -`,
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			v, err := vault.New(cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.OutOrStdout(), v.Policy())
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Mount, "mount", "pki", "path of the PKI secrets engine that signs (RootPKIPath; with --leaf-role IntermediatePKIPath)")
	f.StringVar(&cfg.Issuer, "issuer", "", "the issuer in it that signs, where that is not its default (Issuer)")
	f.StringVar(&cfg.LeafRole, "leaf-role", "", "the role by which each leaf is signed there (LeafRole)")
	return c
}
