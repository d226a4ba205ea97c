package main

import (
	"fmt"

	"github.com/sallyport/sallyport/consul"
	"github.com/spf13/cobra"
)

func newConsulCommand() *cobra.Command {
	group := &cobra.Command{Use: "consul", Short: "Beside a Consul agent", Args: subcommand, RunE: help}
	var node, key string
	var asJSON bool
	policy := &cobra.Command{
		Use:   "policy [--node-name NODE] [--revoked-key KEY]",
		Short: "Print the ACL policy that the control plane's own token needs",
		Long: `Policy prints the ACL policy of the control plane's own token, for ` + "`consul acl policy create -rules -`" + `. Sidecars have tokens of their own,
with service:write on their service, as for Consul's own proxies.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(c, map[string]string{"policy": consul.Policy(node, key)})
			}
			_, err := fmt.Fprint(c.OutOrStdout(), consul.Policy(node, key))
			return err
		},
	}
	policy.Flags().StringVar(&node, "node-name", "", "the agent's node; without it the policy is for any node")
	policy.Flags().StringVar(&key, "revoked-key", consul.DefaultRevokedKey, "the key with what is revoked, as serve is told it")
	policy.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	group.AddCommand(policy)
	return group
}
