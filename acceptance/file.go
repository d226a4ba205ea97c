package acceptance

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/sallyport/sallyport/internal/journal"
)

// entry is a line of the file: all that is known of one holder, in place of what lines before say of it.
type entry struct {
	Holder string   `json:"holder,omitempty"`
	Roots  []string `json:"roots,omitempty"` // SHA-256, in hexadecimal
	Leafs  []line   `json:"leafs,omitempty"`
	// Ended is the last line of a process that ended in order, and Lost what it knew of until when there may be holders that are not
	// recorded, in Unix seconds.
	Ended bool  `json:"ended,omitempty"`
	Lost  int64 `json:"lost,omitempty"`
}

type line struct {
	ID   string `json:"id"`
	Root string `json:"root,omitempty"` // the SHA-256 of its public key
	Ends int64  `json:"ends"`           // Unix seconds
}

func entryOf(h *holder) entry {
	e := entry{Holder: h.name}
	if h.told != nil {
		for _, d := range h.told.roots {
			e.Roots = append(e.Roots, hex.EncodeToString(d[:]))
		}
	}
	for _, l := range h.leafs {
		for _, u := range l.uses {
			n := line{ID: l.id.Value(), Ends: u.ends}
			if u.root != (digest{}) {
				n.Root = hex.EncodeToString(u.root[:])
			}
			e.Leafs = append(e.Leafs, n)
		}
	}
	return e
}

func digestOf(text string) (d digest, err error) {
	b, err := hex.DecodeString(text)
	if err == nil && len(b) != len(d) {
		err = errors.New("no SHA-256")
	}
	copy(d[:], b)
	return d, err
}

// load reads the file. What a crash may have lost is then waited for.
func (r *Record) load() error {
	ended, last := false, &entry{Ended: true}
	j, damaged, missing, err := journal.Open(journal.Config{File: r.cfg.File, Logger: r.log, Due: r.take, Last: last}, func(text []byte) error {
		var e entry
		if err := json.Unmarshal(text, &e); err != nil {
			return err
		}
		if ended = e.Ended; ended {
			last.Lost = e.Lost
			return nil
		}
		return r.read(e)
	})
	if err != nil {
		return err
	}
	r.journal = j
	if missing {
		j.Rewrite() // that it is there is what shows that a process did not end in order
	}
	if ended {
		if err := j.CutLast(); err != nil {
			r.log.Error("the record of what was accepted still says that sallyport ended in order, which a crash would not change", "file", r.cfg.File, "err", err)
			j.Rewrite()
		}
	}
	if damaged > 0 {
		r.log.Warn("lines of the record of what was accepted are damaged and left out: a rotation waits for those that they were about", "file", r.cfg.File, "count", damaged)
	}
	now := r.now()
	for name, h := range r.holders {
		if h.ends(now.Unix(), nil) == 0 {
			delete(r.holders, name)
		}
	}
	if !ended && !missing || damaged > 0 || missing && len(r.cfg.Issued) > 0 {
		last.Lost = max(last.Lost, now.Add(r.cfg.Life).Unix())
		for _, l := range r.cfg.Issued {
			if h := r.holders[l.Caller]; l.Ends.After(now) && (h == nil || h.ends(now.Unix(), nil) < l.Ends.Unix()) {
				if h = r.of(l.Caller); h != nil {
					h.add(unique.Make(l.ID), use{ends: l.Ends.Unix()})
				}
			}
		}
		j.Rewrite() // with what is only known of the leafs that were given away
	}
	r.lost = time.Unix(last.Lost, 0)
	return nil
}

func (r *Record) read(e entry) error {
	if e.Holder == "" {
		return errors.New("no holder")
	}
	h := &holder{name: e.Holder}
	var roots []digest
	for _, text := range e.Roots {
		d, err := digestOf(text)
		if err != nil {
			return err
		}
		roots = append(roots, d)
	}
	if len(roots) > 0 {
		h.told = r.bundleOf(roots)
	}
	for _, l := range e.Leafs {
		u := use{ends: l.Ends}
		if l.Root != "" {
			var err error
			if u.root, err = digestOf(l.Root); err != nil {
				return err
			}
		}
		h.add(unique.Make(l.ID), u)
	}
	if r.holders[h.name] == nil && len(r.holders) >= maxHolders {
		return errors.New("too many holders")
	}
	r.holders[h.name] = h
	return nil
}

// take are the entries to be written, as journal.Config.Due wants them.
func (r *Record) take(all bool) iter.Seq[any] {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.sure(r.now())
	due := r.due
	r.due = nil
	for _, h := range due {
		h.due = false
	}
	if all {
		due = due[:0]
		for _, h := range r.holders {
			if h.ends(now, nil) > 0 {
				due = append(due, h)
			}
		}
		slices.SortFunc(due, func(a, b *holder) int { return strings.Compare(a.name, b.name) })
	}
	entries := make([]entry, 0, len(due))
	for _, h := range due {
		entries = append(entries, entryOf(h))
	}
	return func(yield func(any) bool) {
		for _, e := range entries {
			if !yield(e) {
				return
			}
		}
	}
}
