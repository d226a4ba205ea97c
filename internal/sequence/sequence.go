// Package sequence issues numbers that grow, also over restarts as long as their file is kept,
// without waiting for a disk.
package sequence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/atomicfile"
)

const (
	// block is how many numbers are reserved at a time. A start after a crash skips them.
	block = 10_000
	// retry is how long after a failure the reservation is tried again.
	retry = 5 * time.Second
)

// ours ends the file. Releases that did not look for it end it with a newline alone, and read this, too.
const ours = " \n"

// Ours reports whether the file at path was written last by a release that knows this function: since
// then no older one ran, which each reserve numbers at their start.
func Ours(path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && strings.HasSuffix(string(b), ours)
}

// Numbers issues numbers. Each is reserved on disk before it is issued, in blocks; if the disk
// takes longer than a block lasts, numbers are issued all the same. The zero value counts from 1 in
// memory. All methods may be called by several goroutines.
type Numbers struct {
	path string

	mu             sync.Mutex
	last, reserved uint64 // the next start begins after reserved
	low            chan struct{}
}

// Open reads the last reserved number from the file at path, and reserves the next block there. The
// first number is at least the time in Unix seconds. So they go on near there if the file is lost: at
// lower ones, if crashes have skipped more numbers than seconds have passed. An error names the file
// and the remedy.
func Open(path string, now time.Time) (*Numbers, error) {
	n := &Numbers{path: path, low: make(chan struct{}, 1)}
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &n.last)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: the number of the last change: %w: delete the file; numbers then continue from the time of day", path, err)
	}
	n.last = max(n.last, uint64(max(now.Unix(), 0)))
	return n, n.reserve(n.last + block)
}

// Next returns the next number, which is greater than all before. It does not block.
func (n *Numbers) Next() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last++
	if n.low != nil && n.last+block/2 >= n.reserved {
		select {
		case n.low <- struct{}{}:
		default:
		}
	}
	return n.last
}

// Raise makes the next number greater than last. Like Open, it waits for the disk.
func (n *Numbers) Raise(last uint64) error {
	n.mu.Lock()
	raised := last > n.last
	n.last = max(n.last, last)
	n.mu.Unlock()
	if !raised || n.path == "" {
		return nil
	}
	return n.reserve(last + block)
}

// Close releases the reserved numbers that were not issued. Next must not be called any more.
func (n *Numbers) Close() error { return n.reserve(n.last) }

// Run keeps numbers reserved until ctx ends. It calls report with each failure, and tries again.
func (n *Numbers) Run(ctx context.Context, report func(error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.low:
		}
		n.mu.Lock()
		last := n.last
		n.mu.Unlock()
		if err := n.reserve(last + block); err != nil {
			report(err)
			select {
			case n.low <- struct{}{}:
			default:
			}
			select {
			case <-ctx.Done():
			case <-time.After(retry):
			}
		}
	}
}

func (n *Numbers) reserve(upTo uint64) error {
	if err := atomicfile.Replace(n.path, fmt.Append(nil, upTo, ours)); err != nil {
		return fmt.Errorf("numbers of changes are not reserved, the next start may repeat some: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reserved = upTo
	return nil
}
