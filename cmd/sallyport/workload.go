package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// openWorkload makes what processes of this machine ask for their certificates.
func (p *controlPlane) openWorkload() (err error) {
	cfg := workload.Config{Views: &p.store.Views, Credentials: p.secrets, Foreign: p.domains.Sets(), Acceptance: p.accepted, Logger: p.log, Registerer: p.metrics}
	if p.cfg.Consul {
		p.warnOfTokens()
		cfg.Right, cfg.Recheck = p.workloadRight, recheckInterval
	} else {
		if cfg.JWT, err = workload.OpenJWTKeys(filepath.Join(p.cfg.Data, "jwt-svid.key"), p.keys); err != nil {
			return err
		}
		p.runs = append(p.runs, func(ctx context.Context) error { return cfg.JWT.Run(ctx, p.log, p.rotation, p.builtin.StatusChanged) })
	}
	p.workload, err = workload.New(cfg)
	return err
}

// rotation is how far the replacement of the built-in CA's root has come.
func (p *controlPlane) rotation() workload.Rotation {
	r := p.builtin.Status().Rotation
	if r == nil {
		return workload.Rotation{}
	}
	return workload.Rotation{Phase: r.Phase, Started: r.Started}
}

// workloadRight says with which of Consul's tokens the leaf of a service is fetched for a process that
// the service names: with none where Consul has no ACLs, else with the service's own, if the operator
// gives it. Never with the control plane's.
func (p *controlPlane) workloadRight(ctx context.Context, service identity.Name) (string, error) {
	if p.callers.withoutACLs() {
		return "", nil
	}
	files, err := p.cfg.serviceTokens()
	if err != nil {
		return "", status.Error(codes.Internal, err.Error())
	}
	file, ok := files[service.Service]
	if !ok {
		return "", status.Errorf(codes.PermissionDenied, "Consul's ACLs are on, or it is not known yet whether they are, and the control plane was given no token of %s: start serve with --service-tokens %[1]s=FILE, a file with an ACL token that has service:write on it", service)
	}
	token, err := readServiceToken(file)
	if err != nil {
		// Whoever replaces the file makes this pass.
		p.log.Warn("token of a service not read", "service", service, "err", err)
		return "", status.Errorf(codes.Unavailable, "the token of %s cannot be read: the control plane's log has why", service)
	}
	if err := p.agent.MayWrite(ctx, token, service, true); err != nil {
		return "", err
	}
	return token, nil
}

// warnOfTokens says at the start which files of --service-tokens cannot be read. They may come later.
func (p *controlPlane) warnOfTokens() {
	files, _ := p.cfg.serviceTokens() // it was checked
	for service, file := range files {
		if _, err := readServiceToken(file); err != nil {
			p.log.Warn("token of a service not read: write an ACL token with its service:write into the file, which the control plane's user may read; it is read when it is needed", "service", service, "file", file, "err", err)
		}
	}
}

// maxServiceToken bounds a token's file, in bytes.
const maxServiceToken = 8 << 10

// readServiceToken reads a token. The error does not quote what is in the file.
func readServiceToken(file string) (string, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not stall who asks
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", file)
	}
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxServiceToken+1))
	token := strings.TrimSpace(string(text))
	if err == nil && (token == "" || len(text) > maxServiceToken) {
		err = fmt.Errorf("%s holds no token", file)
	}
	return token, err
}

// serviceTokens are the files of --service-tokens, by service.
func (c serveConfig) serviceTokens() (map[string]string, error) {
	out := map[string]string{}
	for _, pair := range strings.FieldsFunc(c.ServiceTokens, func(r rune) bool { return r == ',' || r == ' ' }) {
		service, file, ok := strings.Cut(pair, "=")
		switch {
		case !ok || service == "" || file == "":
			return nil, fmt.Errorf("--service-tokens: %q is not SERVICE=FILE", pair)
		case out[service] != "":
			return nil, fmt.Errorf("--service-tokens: %s has two files", service)
		case !filepath.IsAbs(file):
			return nil, fmt.Errorf("--service-tokens: %s is not an absolute path: write it out", file)
		}
		if err := identity.NewName(service).Check(); err != nil {
			return nil, fmt.Errorf("--service-tokens: %w", err)
		}
		out[service] = file
	}
	return out, nil
}
