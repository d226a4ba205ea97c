package main

import (
	"context"
	"path/filepath"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// openWorkload makes what processes of this machine ask for their certificates.
func (p *controlPlane) openWorkload() (err error) {
	cfg := workload.Config{Views: &p.store.Views, Credentials: p.secrets, Logger: p.log, Registerer: p.metrics}
	if p.cfg.Consul {
		cfg.Right, cfg.Recheck = p.workloadRight, recheckInterval
	} else if cfg.JWT, err = workload.OpenJWTKey(filepath.Join(p.cfg.Data, "jwt-svid.key")); err != nil {
		return err
	}
	p.workload, err = workload.New(cfg)
	return err
}

// workloadRight says with which of Consul's tokens the leaf of a service is fetched for a process that
// the service names: with none where Consul has no ACLs. Never with the control plane's own.
func (p *controlPlane) workloadRight(_ context.Context, service identity.Name) (string, error) {
	if p.callers.withoutACLs() {
		return "", nil
	}
	return "", status.Errorf(codes.PermissionDenied, "Consul's ACLs are on, or it is not known yet whether they are, and a process that shows no token has no right to the service %s", service)
}
