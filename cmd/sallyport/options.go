package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/sidecar"
	"github.com/spf13/cobra"
)

// clientOptions are what all commands that ask a running control plane share.
type clientOptions struct {
	runtimeDir string // empty: the first of the usual directories with a control plane
	// owner is the user, by name or number, whose runtime directory is trusted besides root's and
	// one's own; empty: nobody's.
	owner string
}

// owners are the users that owner names.
func (o *clientOptions) owners() ([]int, error) {
	if o.owner == "" {
		return nil, nil
	}
	number := o.owner
	if u, err := user.Lookup(o.owner); err == nil {
		number = u.Uid
	}
	uid, err := strconv.Atoi(number)
	if err != nil {
		return nil, fmt.Errorf("--runtime-owner: there is no user %q", o.owner)
	}
	return []int{uid}, nil
}

// find finds the running control plane.
func (o *clientOptions) find() (*admin.Client, error) {
	uids, err := o.owners()
	if err != nil {
		return nil, err
	}
	return admin.Find(o.runtimeDir, uids...)
}

// sidecarFlags adds what `envoy` and `bootstrap` share: whose sidecar it is, and what its bootstrap
// says.
func sidecarFlags(c *cobra.Command, client *clientOptions, o *sidecar.Config, defaultTTL time.Duration, ttl string) {
	f := c.Flags()
	f.StringVar(&o.SidecarFor, "sidecar-for", "", "ID of the service instance that the sidecar is for, or its service where that has one sidecar")
	f.StringVar(&o.ProxyID, "proxy-id", "", "ID of the sidecar's own registration, where a service has several")
	f.StringVarP(&o.Dir, "output", "o", "", "directory of the bootstrap, the token and Envoy's admin socket (default: one of the proxy's own in the runtime directory)")
	f.StringVar(&o.AdminBind, "admin-bind", "", "where Envoy's administration listens: unix:/full/path or ip:port (default: the socket admin.sock beside the bootstrap)")
	f.BoolVar(&o.AdminRemote, "admin-allow-remote", false, "let --admin-bind be an address that other machines reach; Envoy asks nobody who they are")
	f.StringVar(&o.Network, "network", "", `name of the network namespace that Envoy runs in, if it is not the control plane's: sidecars of one share its ports ("sallyport envoy" finds out its own)`)
	f.DurationVar(&o.DrainTime, "drain-time", bootstrap.DefaultDrainTime, "how long connections may live on after their access was taken away, in whole seconds")
	f.DurationVar(&o.TokenTTL, "token-ttl", defaultTTL, ttl)
	f.StringVar(&o.TokenFile, "token-file", "", "beside Consul: file with the proxy's own ACL token (CONSUL_HTTP_TOKEN_FILE; or the token itself in CONSUL_HTTP_TOKEN)")
	f.DurationVar(&o.Wait, "wait", 0, "how long to wait for a control plane that does not run yet, or does not know the proxy yet")
	for flag, names := range map[string]func(named) []string{"sidecar-for": instanceNames, "proxy-id": proxyIDs} {
		_ = c.RegisterFlagCompletionFunc(flag, completing(client, 1, names)) // it fails for flags that there are not
	}
}

// checkWhose refuses what does not say whose sidecar it is.
func checkWhose(c *cobra.Command, o sidecar.Config) error {
	switch {
	case o.SidecarFor == "" && o.ProxyID == "":
		return fmt.Errorf("whose sidecar? Give %s --sidecar-for and the ID or name of a service, or --proxy-id: `sallyport status` lists both", c.CommandPath())
	case o.SidecarFor != "" && o.ProxyID != "":
		return errors.New("--sidecar-for and --proxy-id: one of them says whose sidecar it is")
	}
	return nil
}

func printJSON(c *cobra.Command, v any) error {
	e := json.NewEncoder(c.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}
