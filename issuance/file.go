package issuance

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strconv"
	"time"
	"unique"

	"github.com/sallyport/sallyport/internal/atomicfile"
)

// The file has a line for each leaf: JSON, a space, and the CRC-32 of the JSON in eight hexadecimal digits. Lines are appended. When most
// are about leafs that have ended, the file is written anew.
type line struct {
	Serial string `json:"serial"` // hexadecimal, as SHA256
	SHA256 string `json:"sha256"`
	ID     string `json:"id"`
	Caller string `json:"caller"`
	Issued int64  `json:"issued"` // Unix seconds, as Ends
	Ends   int64  `json:"ends"`
}

const (
	// maxLine bounds a line: names of services and proxies are much shorter.
	maxLine = 64 << 10
	// gather is how long after a write the next one begins at the earliest: a mesh that starts costs few of them.
	gather = 100 * time.Millisecond
	// retry is how long after a failure the file is written again.
	retry = 5 * time.Second
	// sweep is how often leafs that have ended are dropped.
	sweep = 5 * time.Minute
	// fewLines is how many lines a file may have without being looked at for what has ended.
	fewLines = 1000
	// lastWrite bounds how long the end of Run waits for the disk.
	lastWrite = 5 * time.Second
)

func appendLine(b []byte, k key, v value) []byte {
	text, err := json.Marshal(line{
		hex.EncodeToString([]byte(v.serial)), hex.EncodeToString(k.sha256[:]), v.id.Value(), k.caller.Value(), v.issued, v.ends,
	})
	if err != nil {
		panic(fmt.Sprintf("issuance: texts and numbers cannot be marshalled: %v", err))
	}
	b = append(b, text...)
	return fmt.Appendf(b, " %08x\n", crc32.ChecksumIEEE(text))
}

// parseLine is the reverse of appendLine, without the newline.
func parseLine(b []byte) (k key, v value, err error) {
	at := len(b) - 9
	if at < 0 || b[at] != ' ' {
		return k, v, errors.New("no checksum")
	}
	sum, err := strconv.ParseUint(string(b[at+1:]), 16, 32)
	if err != nil || uint32(sum) != crc32.ChecksumIEEE(b[:at]) {
		return k, v, errors.New("another checksum")
	}
	var l line
	if err := json.Unmarshal(b[:at], &l); err != nil {
		return k, v, err
	}
	serial, err := hex.DecodeString(l.Serial)
	if err != nil {
		return k, v, err
	}
	digest, err := hex.DecodeString(l.SHA256)
	if err != nil || len(digest) != len(k.sha256) {
		return k, v, errors.New("no SHA-256")
	}
	copy(k.sha256[:], digest)
	k.caller = unique.Make(l.Caller)
	return k, value{string(serial), unique.Make(l.ID), l.Issued, l.Ends}, nil
}

// load reads the file, and returns how many lines of it are damaged.
func (r *Record) load(now time.Time) (damaged int, err error) {
	f, err := os.Open(r.file)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	in := bufio.NewReaderSize(f, maxLine)
	for {
		b, err := in.ReadSlice('\n')
		whole := err == nil
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return damaged, err
		}
		switch {
		case len(b) == 0:
		case long:
			damaged++
			r.whole = true
		case !whole: // torn by a crash
			r.whole = true
		default:
			r.lines++
			k, v, bad := parseLine(bytes.TrimSuffix(b, []byte("\n")))
			switch {
			case bad != nil:
				damaged++
				r.whole = true
			case v.ends >= now.Unix():
				r.makeRoom(now)
				r.all[k] = v
			}
		}
		if err != nil {
			r.compact()
			return damaged, nil
		}
	}
}

// compact has the file be written anew if most of it is about leafs that have ended. r.mu is held, or nobody else has r.
func (r *Record) compact() {
	if r.lines > fewLines && r.lines > 2*len(r.all) {
		r.pending, r.whole = nil, true
	}
	if r.whole {
		r.signal()
	}
}

// Health is why the last write failed; nil: it did not.
func (r *Record) Health() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Run writes the record until ctx ends, and then what is left, unless the disk takes too long. It returns nil.
func (r *Record) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.write(ctx)
	}()
	<-ctx.Done()
	late := time.NewTimer(lastWrite)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		r.log.Error("record of issued leafs not written", "err", fmt.Errorf("%s: the disk did not take it in %s", r.file, lastWrite))
	}
	return nil
}

// write writes what is pending until ctx ends, and once more.
func (r *Record) write(ctx context.Context) {
	defer r.disk.close()
	ended := time.NewTicker(sweep)
	defer ended.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ended.C:
			r.mu.Lock()
			r.forget(time.Now())
			r.compact()
			r.mu.Unlock()
			continue
		case <-r.wake:
		}
		wait := gather
		if err := r.flush(); err != nil {
			wait = retry
			r.signal()
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	_ = r.flush() // which logs it
}

// flush writes what is pending. After an error the whole file is due: what there is of it is not known.
func (r *Record) flush() error {
	r.mu.Lock()
	whole, pending, lines := r.whole, r.pending, r.lines
	if !whole && len(pending) == 0 {
		r.mu.Unlock()
		return nil
	}
	r.pending, r.whole = nil, false
	var b []byte
	if whole {
		lines = 0
		pending = make([]key, 0, len(r.all))
		for k := range r.all {
			pending = append(pending, k)
		}
		slices.SortFunc(pending, func(x, y key) int {
			return cmp.Or(cmp.Compare(r.all[x].issued, r.all[y].issued), bytes.Compare(x.sha256[:], y.sha256[:]), cmp.Compare(x.caller.Value(), y.caller.Value()))
		})
	}
	values := make([]value, 0, len(pending))
	for _, k := range pending {
		values = append(values, r.all[k])
	}
	r.mu.Unlock()

	for i, k := range pending {
		if values[i].ends != 0 { // it is not dropped already
			b = appendLine(b, k, values[i])
			lines++
		}
	}
	var err error
	if whole {
		err = r.disk.replace(b)
	} else {
		err = r.disk.append(b)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if r.failed == nil {
			r.log.Error("record of issued leafs not written, trying again: a restart would not know of all certificates", "file", r.file, "err", err, "duration", retry)
		}
		r.failed, r.pending, r.whole = fmt.Errorf("the record of issued leafs cannot be written: %w", err), nil, true
		return err
	}
	if r.failed != nil {
		r.log.Info("record of issued leafs written again", "file", r.file)
	}
	r.failed, r.lines = nil, lines
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
