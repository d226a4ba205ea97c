package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/revocation"
)

// revokedName is the file of the data directory with what was revoked when that was read last.
const revokedName = "revoked"

// openRevocation opens what is revoked. It comes before what publishes.
func (p *controlPlane) openRevocation() (err error) {
	p.revoked, err = revocation.Open(revocation.Config{File: filepath.Join(p.cfg.Data, revokedName), Logger: p.log, Registerer: p.metrics})
	if err != nil {
		return err
	}
	p.runs = append(p.runs, p.revoked.Run, p.renewRevoked)
	p.checks = append(p.checks, func() error {
		if s := p.revoked.Status(); !s.Known {
			return errors.New(strings.TrimSuffix("what is revoked is not known yet: "+s.Problem, ": "))
		}
		return nil
	})
	if p.cfg.Consul {
		// A release that knew no revocations has left contents for a start without Consul, and no list: nothing was revoked.
		if there(filepath.Join(p.cfg.Data, "last-known-good.json")) && !there(filepath.Join(p.cfg.Data, revokedName)) {
			p.revoked.Take(nil)
		}
		key := &revocation.Key{Agent: p.agent, Name: cmp.Or(p.cfg.RevokedKey, consul.DefaultRevokedKey), Registry: p.revoked}
		p.revocations = keyList{key}
		p.runs = append(p.runs, key.Run)
	} else {
		dir := &revocation.Directory{Path: p.cfg.Catalog, Registry: p.revoked}
		reload := p.source.reload
		p.source.reload = func() {
			_ = dir.Read() // the status has why
			reload()
		}
		p.revocations = catalogList{dir}
		p.runs = append(p.runs, func(ctx context.Context) error { return dir.Run(ctx) })
	}
	status := p.source.status
	p.source.status = func() admin.Catalog { return withRevocation(status(), p.revoked.Status()) }
	return nil
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// withRevocation is c with what there is to say of what is revoked.
func withRevocation(c admin.Catalog, s revocation.Status) admin.Catalog {
	switch {
	case s.Problem == "":
	case s.NotAllowed:
		c.Denied = append(slices.Clip(c.Denied), "the token may not read what is revoked, and what was read last holds: `sallyport consul policy` prints what it needs")
		c.Warnings = append(slices.Clip(c.Warnings), "what is revoked cannot be read, and what was read last holds: "+s.Problem)
	case s.Known && !c.StaleSince.IsZero(): // the source is away, which is said already, with what to do
		c.Warnings = append(slices.Clip(c.Warnings), "what is revoked cannot be read, and what was read last holds: "+s.Problem)
	case s.Known:
		c.Problems = append(slices.Clip(c.Problems), "what is revoked cannot be read, and what was read last holds: "+s.Problem)
	default:
		c.Problems = append(slices.Clip(c.Problems), "what is revoked cannot be read, and nothing is served before it is: "+s.Problem)
	}
	if s.Unsaved != "" {
		c.Warnings = append(slices.Clip(c.Warnings), "what is revoked is not saved: "+s.Unsaved)
	}
	return c
}
