package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/internal/sequence"
)

// source is where the catalog comes from: a directory, or the local Consul agent.
type source struct {
	catalog.Source
	// reload has it read again at once.
	reload func()
	// ahead is how far the source's clock is before this machine's, where it has one of its own.
	ahead func() time.Duration
	// settled reports whether all that the source has was published once.
	settled func() bool
	// status leaves out what the View knows: how much there is.
	status func() admin.Catalog
}

// Names of files of the data directory.
const (
	changeName = "change"
	takenName  = "catalog-taken"
)

// forget removes the record of what was in force of files.
func forget(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("what was in force of the catalog at an earlier time: %w", err)
	}
	return nil
}

func (p *controlPlane) openFiles() error {
	td, _ := p.authority.trustDomain()
	cfg, err := p.cfg.filesConfig(td)
	if err != nil {
		return err
	}
	cfg.PortsFile, cfg.Logger, cfg.Registerer = filepath.Join(p.cfg.Data, "sidecar-ports.json"), p.log, p.metrics
	cfg.RecordFile, cfg.UnrecordedFile = filepath.Join(p.cfg.Data, takenName), filepath.Join(p.cfg.RuntimeDir, "unrecorded-catalog")
	// What was in force at an earlier time is no measure of what may be now: another release, or another way to read the
	// catalog, may have closed since what was open then.
	if cfg.Strict || !sequence.Ours(filepath.Join(p.cfg.Data, changeName)) {
		if err := forget(cfg.RecordFile); err != nil {
			return err
		}
	}
	dir, err := files.New(cfg)
	if err != nil {
		return err
	}
	p.source = source{Source: dir, reload: dir.Reload, ahead: func() time.Duration { return 0 }, settled: func() bool { return true }, status: func() admin.Catalog {
		s := dir.Status()
		c := admin.Catalog{Source: "files: " + cfg.Dir, LastLoaded: s.LastSuccess, Problems: s.Problems, Warnings: s.Warnings}
		for _, n := range s.NotTaken {
			c.NotTaken = append(c.NotTaken, admin.NotTaken(n))
		}
		if info, err := os.Stat(cfg.Dir); err == nil && info.Mode().Perm()&0o002 != 0 {
			c.Warnings = append(slices.Clip(c.Warnings), cfg.Dir+" may be written to by anybody, who can thereby let anybody in: chmod o-w "+cfg.Dir)
		}
		return c
	}}
	return nil
}

// openAgent opens the local Consul agent, whose servers keep the CA and the tokens too.
func (p *controlPlane) openAgent() error {
	cfg, err := p.cfg.consulConfig()
	if err != nil {
		return err
	}
	if err := forget(filepath.Join(p.cfg.Data, takenName)); err != nil {
		return err
	}
	cfg.LKGFile, cfg.Logger, cfg.Registerer = filepath.Join(p.cfg.Data, "last-known-good.json"), p.log, p.metrics
	agent, err := consul.New(cfg)
	if err != nil {
		return err
	}
	for _, own := range []string{admin.HTTPSocket(p.cfg.RuntimeDir), p.cfg.APIAddress} {
		if own != "" && agent.Serves(own) {
			return fmt.Errorf("--http-addr (CONSUL_HTTP_ADDR): %s is sallyport's own HTTP API: unset CONSUL_HTTP_ADDR, or set it to the agent's address", own)
		}
	}
	p.source = source{Source: agent, reload: func() {}, ahead: func() time.Duration { return agent.Status().Ahead }, settled: func() bool { return agent.Status().Settled }, status: func() admin.Catalog { return agentStatus(agent.Status()) }}
	p.agent = agent
	p.authority = authority{Source: agent, trustDomain: agent.TrustDomain}
	p.callers = callers{recheck: recheckInterval, withoutACLs: agent.WithoutACLs}
	p.callers.Authority = agent
	p.checks = append(p.checks, func() error {
		switch s := agent.Status(); {
		case !s.Connected:
			return errors.New("the Consul agent " + s.Agent + " does not answer")
		case !s.Settled:
			return errors.New("what the proxies of this node need is still being read from the Consul agent " + s.Agent)
		}
		return nil
	})
	return nil
}

func agentStatus(s consul.Status) admin.Catalog {
	c := admin.Catalog{Source: "consul agent " + s.Agent, LastLoaded: s.LastContact, StaleSince: s.StaleSince}
	if s.Connected && s.StaleSince.IsZero() {
		c.LastLoaded = time.Now() // a query that blocks says that nothing has changed
	}
	for _, p := range s.Problems {
		c.Warnings = append(c.Warnings, p.String())
	}
	for _, f := range s.Filtered {
		c.Denied = append(c.Denied, "the token may not read all of "+f+": `sallyport consul policy` prints what it needs")
	}
	c.Warnings = append(c.Warnings, c.Denied...)
	return c
}
