package main

import (
	"cmp"
	"errors"
	"os"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/svidfile"
	"github.com/spf13/cobra"
)

func newSVIDCommand(o *clientOptions) *cobra.Command {
	group := &cobra.Command{Use: "svid", Short: "Certificates of applications without a sidecar", Args: subcommand, RunE: help}
	var cfg svidfile.Config
	write := &cobra.Command{
		Use:   "write SERVICE --out DIR",
		Short: "Keep the leaf, key and roots of a service as files, for nginx, PostgreSQL and others that speak no API",
		Long: `Write asks the HTTP API of the control plane (or of a Consul agent: --api, CONSUL_HTTP_ADDR) for the leaf and the roots of a service, writes them
into DIR, and does so again for each new one, until it is ended. The server's configuration names DIR/current/svid.pem (the leaf and its
intermediates), DIR/current/key.pem (mode 0600, or 0640 with --group) and DIR/current/roots.pem. "current" is a link that leads to all three
at once, and nobody finds a new certificate beside an old key behind it. The directory of the last ones stays until the next change.

After each change the command of --exec is run, by /bin/sh, in /, without the token. If it fails that is logged, and it is run at the next
change. While the API does not answer, or refuses, the files stay. With --once the exit status is 1 if that is so.

With --own-key the key is made here and never sent: the API signs a certificate request, again when half of the leaf's life is over, and when the
roots change. Consul's agent does not do that.

DIR is made if it is missing; one that others may write to is refused. The token is that of --token-file, which is read again when it
changes, else CONSUL_HTTP_TOKEN, else CONSUL_HTTP_TOKEN_FILE: "sallyport token create SERVICE" makes one.`,
		Example: `  sallyport svid write api --out /etc/nginx/mesh --token-file /etc/nginx/mesh.token --exec 'nginx -s reload'
  sallyport svid write db --out /var/lib/postgresql/mesh --exec 'pg_ctl reload -D /var/lib/postgresql/data'`,
		Args:              exactly("SERVICE"),
		ValidArgsFunction: completing(o, 1, serviceName),
		RunE: func(c *cobra.Command, args []string) error {
			if cfg.Dir == "" {
				return errors.New("--out: name the directory of the files, as --out /etc/nginx/mesh")
			}
			var err error
			if cfg.Logger, err = newLogger("auto", "info", os.Stderr, adviceOf(c.Flags())); err != nil {
				return err
			}
			cfg.Service = args[0]
			if cfg.Address = cmp.Or(cfg.Address, os.Getenv("CONSUL_HTTP_ADDR")); cfg.Address == "" {
				uids, err := o.owners()
				if err != nil {
					return err
				}
				socket, err := admin.FindHTTPSocket(o.runtimeDir, uids...)
				if err != nil {
					return err
				}
				cfg.Address = "unix://" + socket
			}
			return svidfile.Run(c.Context(), cfg)
		},
	}
	f := write.Flags()
	f.StringVar(&cfg.Dir, "out", "", "directory of the files")
	f.BoolVar(&cfg.OwnKey, "own-key", false, "make the key here, and have the API sign a request for it; not beside Consul")
	f.StringVar(&cfg.Command, "exec", "", "command to run after each change of the files")
	f.DurationVar(&cfg.Timeout, "exec-timeout", 30*time.Second, "how long the command may take")
	f.BoolVar(&cfg.Once, "once", false, "write once, and end")
	f.StringVar(&cfg.Group, "group", "", "group that may read the key")
	f.StringVar(&cfg.Address, "api", "", "address of the HTTP API: unix:///path, 127.0.0.1:8500, https://… (default: CONSUL_HTTP_ADDR, else http.sock in the runtime directory)")
	f.StringVar(&cfg.TokenFile, "token-file", "", "file with the token of the service")
	group.AddCommand(write)
	return group
}
