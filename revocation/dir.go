package revocation

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/files"
)

const (
	// every is how often is looked whether the files of a directory changed.
	every = 400 * time.Millisecond
	// granule is how far apart two changes of a file may be for its times to be the same: FAT has 2 s.
	granule = 3 * time.Second
)

// Directory reads the revocations of a catalog directory for a Registry. Its methods may be called by several
// goroutines.
type Directory struct {
	// Path is the directory.
	Path string
	// Registry is told what is read.
	Registry *Registry

	edit sync.Mutex // held while one of ours writes

	mu   sync.Mutex
	seen string // what the files looked like when they were read last; empty: they are to be read
}

// Read reads the directory now, and returns when what it says is in force. The error is why it is not.
func (d *Directory) Read() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.read(d.look())
}

// Edit changes what is revoked (see Write), and returns when that is in force here.
func (d *Directory) Edit(decide Decide) error {
	d.edit.Lock()
	defer d.edit.Unlock()
	if err := Write(d.Path, decide); err != nil {
		return err
	}
	return d.Read()
}

func (d *Directory) read(looks string, settled bool) error {
	d.seen = ""
	all, err := files.ReadRevoked(d.Path)
	if err != nil {
		d.Registry.fail(err)
		return err
	}
	if settled {
		d.seen = looks
	}
	d.Registry.Take(all)
	return nil
}

// look is what the files look like from outside; settled says that another change would be seen.
func (d *Directory) look() (looks string, settled bool) {
	var b strings.Builder
	settled = true
	for _, name := range files.RevokedFiles() {
		info, err := os.Stat(filepath.Join(d.Path, name))
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
			continue
		}
		settled = settled && time.Since(info.ModTime()) > granule
		fmt.Fprintln(&b, info.Size(), info.Mode(), info.ModTime().UnixNano())
	}
	return b.String(), settled
}

// Run reads the directory whenever it changed, until ctx ends; then it returns nil.
func (d *Directory) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		d.mu.Lock()
		if looks, settled := d.look(); looks != d.seen {
			_ = d.read(looks, settled) // the Registry says why
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
