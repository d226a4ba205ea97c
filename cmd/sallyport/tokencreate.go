package main

import (
	"fmt"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/spf13/cobra"
)

func newTokenCreateCommand(o *clientOptions) *cobra.Command {
	var r admin.ApplicationTokenRequest
	var asJSON bool
	create := &cobra.Command{
		Use:   "create {SERVICE | --reader}",
		Short: "Make a token for the applications of a service, for the HTTP API",
		Long: `Create prints a token with which applications without a sidecar ask the control plane's HTTP API, as they would ask a Consul agent
(CONSUL_HTTP_TOKEN, or a file named by CONSUL_HTTP_TOKEN_FILE): for the certificate of their service, for its authorizations, for the
intentions that it is a side of, and for the catalog. It is a secret: whoever has it can be that service.

With --reader it reads intentions, config entries and the catalog of the whole mesh, and gets no certificate: for "consul intention list"
and for tools that watch. Beside Consul the tokens are Consul's own.`,
		Example: `  sallyport token create api > /etc/api/consul-token
  CONSUL_HTTP_ADDR=unix:///run/sallyport/http.sock CONSUL_HTTP_TOKEN=$(sallyport token create --reader) consul intention list`,
		Args: between(0, "SERVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				r.Service = args[0]
			}
			if (r.Service == "") != r.Reader {
				return fmt.Errorf("%s takes the name of a service, or --reader: see `%s --help`", c.CommandPath(), c.CommandPath())
			}
			client, err := o.find()
			if err != nil {
				return err
			}
			made, err := client.ApplicationToken(c.Context(), r)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c, made)
			}
			if _, err := fmt.Fprintln(c.OutOrStdout(), made.Token); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.ErrOrStderr(), "token %s, until %s, for CONSUL_HTTP_ADDR=unix://%s\n", made.TokenID, made.Expires.Local().Format(time.DateTime), made.Socket)
			return err
		},
	}
	create.Flags().BoolVar(&r.Reader, "reader", false, "a token that reads all but certificates")
	create.Flags().DurationVar(&r.TTL, "ttl", applicationTTL, "life of the token, at most 8784h")
	create.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return create
}
