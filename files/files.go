// Package files reads a mesh from a directory of files in Consul's own formats (service definitions as the agent reads
// them, config entries as `consul config write` takes them, in HCL, JSON or YAML) and is a catalog.Source of it.
//
// Files are read into one tree whatever their format, the tree is decoded strictly (a key that is not known, or not supported
// yet, is an error at file:line, never silence), and what was decoded is put together. Of a file with a mistake the version
// that was valid last stays. The intentions of all others count at once; their registrations and other entries move
// as a whole that is valid, or stay (docs/adr/0010-files-one-by-one.md). The package knows nothing of Envoy.
//
// A Source may be used by several goroutines at once; everything else is a value.
package files

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// defaultDatacenter is the datacenter of a mesh that does not say another one, as in Consul.
const defaultDatacenter = "dc1"

// Config says what to read and what holds where the files say nothing.
type Config struct {
	// Dir is the directory. Its subdirectories are not read.
	Dir string
	// Datacenter is the one that all services are in; empty: "dc1".
	Datacenter string
	// TrustDomain is the mesh's. New demands it; Load takes the zero value too.
	TrustDomain spiffeid.TrustDomain
	// Default is what holds between services that no intention is about; the zero value denies.
	Default intention.Action
	// Enforcement holds for services that no file says another one for; the zero value is catalog.RBAC.
	Enforcement catalog.Enforcement
	// Revocation holds for the services whose protocol it fits and that no file says another one for; nil: the default of
	// each service's protocol.
	Revocation *catalog.Revocation
	// PortsFile is where automatically chosen sidecar ports are remembered, so that they survive a restart; empty: they
	// are remembered in memory only. It must not be in Dir.
	PortsFile string
	// Strict takes the files as a whole or not at all; else they are taken one by one.
	Strict bool
	// RecordFile is where what is in force is kept, so that a restart goes on from there, and what files say that cannot be
	// taken then stays as it was; empty: a restart begins anew. Strict needs none. UnrecordedFile is a file in a directory
	// that needs no disk, which is there while RecordFile allows more than is in force; empty: nothing says so.
	RecordFile, UnrecordedFile string
	// Logger is told of what is read and of mistakes; nil: nobody is.
	Logger *slog.Logger
	// Warned is called for each warning of Load; nil: they are logged.
	Warned func(Problem)
	// Registerer gets the package's metrics; nil: there are none.
	Registerer prometheus.Registerer
}

// withDefaults fills in what is empty, and checks the rest.
func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("catalog directory: none is given")
	}
	if c.Datacenter == "" {
		c.Datacenter = defaultDatacenter
	}
	if err := identity.CheckDatacenter(c.Datacenter); err != nil {
		return c, fmt.Errorf("datacenter: %w", err)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Source is a directory as a catalog.Source. Make one with New.
type Source struct {
	config  Config
	metrics metrics
	reload  chan struct{}
	// Run's alone:
	cache     *cache
	ledger    *ledger
	recorder  *recorder
	published *catalog.Contents      // nil: nothing yet
	ports     chan map[string]uint16 // has the newest that are to be written; nil: none are
	write     func(file string, ports map[string]uint16) error

	mu     sync.Mutex
	status Status
	// unwritten says why the ports that were chosen last are not remembered, and unrecorded why
	// what is in force is not; nil: they are, or are being written.
	unwritten, unrecorded *Problem
}

var _ catalog.Source = (*Source)(nil)

// Status is how a Source is doing.
type Status struct {
	Dir string
	// Files is the number of files.
	Files int
	// LastSuccess is when the directory was last looked at and all of it found valid, changed or not; zero: never.
	LastSuccess time.Time
	// Problems are the mistakes for which something of the directory is not taken now, each with file:line; none if all is.
	// Of very many they are the first, and how many more there are.
	Problems []string
	// NotTaken are the files of which the intentions that are in force are older, or none; sorted by name.
	NotTaken []NotTaken
	// Warnings are those of the last reading: what it accepted all the same; and that the sidecars'
	// ports are not remembered.
	Warnings []string
}

// New returns the source of a directory. It reads the ports file and nothing else; the directory need not exist yet.
func New(config Config) (*Source, error) {
	c, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	if c.TrustDomain.IsZero() {
		return nil, errors.New("catalog: no trust domain is given")
	}
	for what, file := range map[string]string{"ports": c.PortsFile, "record": c.RecordFile} {
		if file != "" {
			if err := outside(c.Dir, what, file); err != nil {
				return nil, err
			}
		}
	}
	if c.Strict {
		c.RecordFile = ""
	}
	ports, err := readPorts(c.PortsFile)
	if err != nil {
		return nil, err
	}
	s := &Source{
		config: c, reload: make(chan struct{}, 1), status: Status{Dir: c.Dir},
		cache: newCache(c), ledger: newLedger(c, ports),
		write: writePorts,
	}
	s.recorder = newRecorder(&s.config)
	if s.metrics, err = newMetrics(c.Registerer); err != nil {
		return nil, err
	}
	return s, nil
}

// Load reads the directory once and returns its contents, as a Source would publish them. The error is an Errors with every
// mistake, unless the configuration itself is wrong. Nothing is written, the ports file neither.
func Load(config Config) (catalog.Contents, error) {
	contents, _, err := load(config)
	return contents, err
}

// load is Load. It returns what the contents were made of too; nil after an error.
func load(config Config) (catalog.Contents, *assembly, error) {
	c, err := config.withDefaults()
	if err != nil {
		return catalog.Contents{}, nil, err
	}
	ports, err := readPorts(c.PortsFile)
	if err != nil {
		return catalog.Contents{}, nil, err
	}
	files, err := scan(c.Dir)
	if err != nil {
		return catalog.Contents{}, nil, Errors{{File: c.Dir, Text: err.Error()}}
	}
	read, r := newCache(c).read(files), &assembler{config: c, ports: ports}
	o := r.assemble(read)
	revoked, err := ReadRevoked(c.Dir)
	if wrong, ok := errors.AsType[Errors](err); ok {
		o.problems = append(o.problems, wrong...).sorted()
	} else if err != nil {
		return catalog.Contents{}, nil, err
	}
	o.contents.Revoked = intention.Revoke(revoked)
	for _, w := range o.warnings {
		c.warned(w)
	}
	if len(o.problems) > 0 {
		return catalog.Contents{}, nil, append(o.problems, amongReadable(c, ports, read, o.problems)...).sorted()
	}
	return o.contents, r.assembly, nil
}

// warned tells of a warning of Load.
func (c *Config) warned(w Problem) {
	if c.Warned != nil {
		c.Warned(w)
		return
	}
	w.warn(c.Logger)
}

// Status tells how s is doing. The slices must not be changed.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.status
	for _, p := range []*Problem{s.unwritten, s.unrecorded} {
		if p != nil {
			status.Warnings = append(slices.Clip(status.Warnings), p.String())
		}
	}
	return status
}

// Reload makes Run read the directory again now, changed or not. It does not block.
func (s *Source) Reload() {
	select {
	case s.reload <- struct{}{}:
	default: // one is waiting already
	}
}

// outside returns an error if file lies in dir, where it would be read as a definition.
func outside(dir, what, file string) error {
	d, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("catalog directory: %w", err)
	}
	f, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("%s file: %w", what, err)
	}
	if filepath.Dir(f) == d {
		return fmt.Errorf("%s file %s: is in the catalog directory, where it would be read as a definition: put it elsewhere", what, file)
	}
	return nil
}
