// Package journal keeps a record in a file: a line for each entry, JSON, a space, and the CRC-32 of the JSON in eight hexadecimal
// digits. Lines are appended; when most of them hold no more, the file is written anew. Whoever adds an entry never waits for the disk:
// its line is there a moment later, a tenth of a second on a disk that works.
package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/atomicfile"
)

const (
	// maxLine bounds a line, in bytes: one about all that a holder may have is longer than 64 KiB where names are long.
	maxLine = 1 << 20
	// gather is how long after a write the next one begins at the earliest: a mesh that starts costs few of them.
	gather = 100 * time.Millisecond
	// retry is how long after a failure the file is written again.
	retry = 5 * time.Second
	// fewLines is how many lines a file may have without being looked at for what holds no more.
	fewLines = 1000
	// lastWrite bounds how long the end of Run waits for the disk.
	lastWrite = 5 * time.Second
)

// Config says where a Journal is and what is written to it. File, Logger and Due are required.
type Config struct {
	// File is where it is written; it is made if it is missing.
	File string
	// Logger gets that it cannot be written.
	Logger *slog.Logger
	// Due returns the entries that are not written yet, or, if all is set, each one that holds, and forgets which are due. Entries are
	// marshalled to JSON. It is called by Run.
	Due func(all bool) iter.Seq[any]
	// Last returns an entry to be written when Run ends, if what is before it was; nil: there is none.
	Last any
}

// Journal is such a file. Make it with Open; Run writes it. All methods may be called by several goroutines.
type Journal struct {
	cfg  Config
	disk writer
	wake chan struct{}

	lastAt int64 // where its last line begins

	mu     sync.Mutex
	whole  bool // it is to be written anew
	lines  int
	failed error // of the last write
}

// Open reads the file and calls each with the JSON of each line. damaged is how many lines were not as they were written, or were
// refused by each; they are left out, as is the last one without being counted if a crash has torn it. missing says that there is no
// file. The error is that it cannot be read.
func Open(cfg Config, each func([]byte) error) (j *Journal, damaged int, missing bool, err error) {
	j = &Journal{cfg: cfg, disk: &file{path: cfg.File}, wake: make(chan struct{}, 1)}
	f, err := os.OpenFile(cfg.File, os.O_RDONLY|syscall.O_NONBLOCK, 0) // what lies there may be a pipe
	if errors.Is(err, fs.ErrNotExist) {
		j.whole = true // replacing it puts its name on the disk, too
		return j, 0, true, nil
	} else if err != nil {
		return nil, 0, false, err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil {
		return nil, 0, false, err
	} else if !info.Mode().IsRegular() {
		return nil, 0, false, fmt.Errorf("%s is not a regular file", cfg.File)
	}
	in := bufio.NewReaderSize(f, maxLine)
	for at := int64(0); ; {
		b, err := in.ReadSlice('\n')
		if len(b) > 0 {
			j.lastAt = at
		}
		at += int64(len(b))
		whole := err == nil
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			var more []byte
			more, err = in.ReadSlice('\n')
			at += int64(len(more))
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, damaged, false, err
		}
		switch {
		case len(b) == 0:
		case long:
			damaged++
			j.whole = true
		case !whole: // torn by a crash
			j.whole = true
		default:
			j.lines++
			text, bad := textOf(bytes.TrimSuffix(b, []byte("\n")))
			if bad == nil {
				bad = each(text)
			}
			if bad != nil {
				damaged++
				j.whole = true
			}
		}
		if err != nil {
			if j.whole {
				j.Signal()
			}
			return j, damaged, false, nil
		}
	}
}

func appendLine(b []byte, entry any) []byte {
	text, err := json.Marshal(entry)
	if err != nil {
		panic(fmt.Sprintf("journal: a %T cannot be marshalled: %v", entry, err))
	}
	b = append(b, text...)
	return fmt.Appendf(b, " %08x\n", crc32.ChecksumIEEE(text))
}

// textOf is the JSON of a line without its newline.
func textOf(b []byte) ([]byte, error) {
	at := len(b) - 9
	if at < 0 || b[at] != ' ' {
		return nil, errors.New("no checksum")
	}
	sum, err := strconv.ParseUint(string(b[at+1:]), 16, 32)
	if err != nil || uint32(sum) != crc32.ChecksumIEEE(b[:at]) {
		return nil, errors.New("another checksum")
	}
	return b[:at], nil
}

// Signal has Run write what is due soon. It does not block.
func (j *Journal) Signal() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Rewrite has Run write the file anew soon. It does not block.
func (j *Journal) Rewrite() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.whole = true
	j.Signal()
}

// CutLast takes the last line off the file that was read, on the disk when it returns: it is Config.Last of the process before, and no
// more true. A disk that is full takes that, too. It is called once, before Run.
func (j *Journal) CutLast() error {
	f, err := os.OpenFile(j.cfg.File, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err = f.Truncate(j.lastAt); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Compact has the file be written anew if most lines hold no more: hold is how many do.
func (j *Journal) Compact(hold int) {
	j.mu.Lock()
	most := j.lines > fewLines && j.lines > 2*hold
	j.mu.Unlock()
	if most {
		j.Rewrite()
	}
}

// Health is why the last write failed; nil: it did not.
func (j *Journal) Health() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// Run writes until ctx ends, and then what is left, unless the disk takes too long. It returns nil.
func (j *Journal) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		j.write(ctx)
	}()
	<-ctx.Done()
	late := time.NewTimer(lastWrite)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		j.cfg.Logger.Error("record not written", "file", j.cfg.File, "err", fmt.Errorf("the disk did not take it in %s", lastWrite))
	}
	return nil
}

// write writes what is due until ctx ends, and once more.
func (j *Journal) write(ctx context.Context) {
	defer j.disk.close()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-j.wake:
		}
		wait := gather
		if err := j.flush(false); err != nil {
			wait = retry
			j.Signal()
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	_ = j.flush(true) // which logs it
}

// flush writes what is due. After an error the whole file is: what there is of it is not known.
func (j *Journal) flush(last bool) error {
	j.mu.Lock()
	whole, lines := j.whole, j.lines
	j.whole = false
	j.mu.Unlock()
	if whole {
		lines = 0
	}
	var b []byte
	for entry := range j.cfg.Due(whole) {
		b = appendLine(b, entry)
		lines++
	}
	if last && j.cfg.Last != nil {
		b = appendLine(b, j.cfg.Last)
		lines++
	}
	var err error
	switch {
	case whole:
		err = j.disk.replace(b)
	case len(b) > 0:
		err = j.disk.append(b)
	default:
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		if j.failed == nil {
			j.cfg.Logger.Error("record not written, trying again: a restart would not know all of it", "file", j.cfg.File, "err", err, "duration", retry)
		}
		j.failed, j.whole = fmt.Errorf("%s cannot be written: %w", j.cfg.File, err), true
		return err
	}
	if j.failed != nil {
		j.cfg.Logger.Info("record written again", "file", j.cfg.File)
	}
	j.failed, j.lines = nil, lines
	return nil
}

// writer is a file that is appended to and replaced; both return when it is on the disk.
type writer interface {
	append(b []byte) error
	replace(b []byte) error
	close()
}

// file is a writer on a disk.
type file struct {
	path string
	open *os.File // nil: it is not
}

func (f *file) append(b []byte) (err error) {
	if f.open == nil {
		if f.open, err = os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
			f.open = nil
			return err
		}
	}
	if _, err := f.open.Write(b); err != nil {
		return err
	}
	return f.open.Sync()
}

func (f *file) replace(b []byte) error {
	f.close()
	return atomicfile.Replace(f.path, b)
}

func (f *file) close() {
	if f.open != nil {
		_ = f.open.Close()
		f.open = nil
	}
}
