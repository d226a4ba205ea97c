package issuance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/sallyport/sallyport/internal/journal"
)

// sweep is how often leafs that have ended are dropped.
const sweep = 5 * time.Minute

// line is what the file has of a leaf.
type line struct {
	Serial string `json:"serial"` // hexadecimal, as SHA256
	SHA256 string `json:"sha256"`
	ID     string `json:"id"`
	Caller string `json:"caller"`
	Issued int64  `json:"issued"` // Unix seconds, as Ends
	Ends   int64  `json:"ends"`
}

func lineOf(k key, v value) line {
	return line{hex.EncodeToString([]byte(v.serial)), hex.EncodeToString(k.sha256[:]), v.id.Value(), k.caller.Value(), v.issued, v.ends}
}

// parseLine is the reverse of lineOf, marshalled.
func parseLine(text []byte) (k key, v value, err error) {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
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
	r.journal, damaged, _, err = journal.Open(journal.Config{File: r.file, Logger: r.log, Due: r.take}, func(text []byte) error {
		k, v, err := parseLine(text)
		if err == nil && v.ends >= now.Unix() {
			r.makeRoom(now)
			r.all[k] = v
		}
		return err
	})
	if err == nil {
		r.journal.Compact(len(r.all))
	}
	return damaged, err
}

// Health is why the last write failed; nil: it did not.
func (r *Record) Health() error { return r.journal.Health() }

// Run writes the record until ctx ends, and then what is left, unless the disk takes too long. It returns nil.
func (r *Record) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { _ = r.journal.Run(ctx) }) // which returns nil
	ended := time.NewTicker(sweep)
	defer ended.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ended.C:
		}
		r.mu.Lock()
		r.forget(time.Now())
		r.journal.Compact(len(r.all))
		r.mu.Unlock()
	}
}

// take are the lines to be written, as journal.Config.Due wants them: those that were issued first come first.
func (r *Record) take(all bool) iter.Seq[any] {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := r.pending
	r.pending = nil
	if all {
		keys = make([]key, 0, len(r.all))
		for k := range r.all {
			keys = append(keys, k)
		}
		slices.SortFunc(keys, func(x, y key) int {
			return cmp.Or(cmp.Compare(r.all[x].issued, r.all[y].issued), bytes.Compare(x.sha256[:], y.sha256[:]), cmp.Compare(x.caller.Value(), y.caller.Value()))
		})
	}
	values := make([]value, 0, len(keys))
	for _, k := range keys {
		values = append(values, r.all[k])
	}
	return func(yield func(any) bool) {
		for i, k := range keys {
			if values[i].ends != 0 && !yield(lineOf(k, values[i])) { // it is not dropped already
				return
			}
		}
	}
}
