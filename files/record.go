package files

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/atomicfile"
)

// record is what is in force, as it is kept on disk so that a restart goes on from there: the bytes
// that each file had when it was taken last, and all that does not follow from them. What the bytes
// mean is found out anew when it is read. Nobody changes it once it is made.
type record struct {
	states     []*state // of files of which something was taken, sorted by name
	whole      []*file  // nil: what the files say that were taken
	intentions []*catalog.Destination
	derived    bool             // intentions are what the files say that were taken
	def        intention.Action // the default that holds where they say nothing
	losers     map[title][]string
}

// record is l as it is now.
func (l *ledger) record() *record {
	r := &record{states: l.states, intentions: l.intentions, derived: l.clean, def: l.config.Default}
	if !l.clean {
		r.whole, r.losers = l.assembler.files, l.whole.losers
		r.states = slices.DeleteFunc(slices.Clone(l.states), func(s *state) bool { return s.taken == nil })
	}
	return r
}

// equal reports whether r and o would be written alike.
func (r *record) equal(o *record) bool {
	return r.derived == o.derived && r.def == o.def && slices.Equal(r.whole, o.whole) && maps.EqualFunc(r.losers, o.losers, slices.Equal) && slices.Equal(r.intentions, o.intentions) &&
		slices.EqualFunc(r.states, o.states, func(a, b *state) bool {
			return a == b || a.name == b.name && a.taken == b.taken && a.at.Equal(b.at) && (a.refused == nil) == (b.refused == nil) &&
				(a.refused == nil || a.refused.sum == b.refused.sum)
		})
}

// The form of a record is a line that names it, a line with the size of what follows it for each
// text, its bytes, the rest as JSON, and the hash of all but the texts, whose hashes are in their
// lines.
const recordHead = "sallyport: what is in force of a catalog's files, 1\n"

// recordText is the line of a text.
type recordText struct {
	file  *file
	state *state // its name is empty if the text is not of a file that is there
}

// recordRest is the JSON.
type recordRest struct {
	Dir string `json:"dir"`
	// Whole are the parts of which the whole is made; nil: the texts of the files that are there.
	Whole []recordPart `json:"whole"`
	// Intentions are those in force, unless Derived says that they are what these texts say.
	Intentions []recordDestination `json:"intentions,omitempty"`
	Derived    bool                `json:"derived,omitempty"`
	// Allow says that the default was to allow.
	Allow bool `json:"allow,omitempty"`
	// Losers are the files that claimed something last and did not get it.
	Losers []recordLosers `json:"losers,omitempty"`
}

// recordPart is a text of which what is in force is a part.
type recordPart struct {
	Text int `json:"text"` // its number
	// Titles are those of the part; nil: it is all.
	Titles []recordTitle `json:"titles"`
}

type recordTitle struct {
	Of   aspects `json:"of"`
	Name string  `json:"name,omitempty"`
}

type recordLosers struct {
	recordTitle
	Files []string `json:"files"`
}

type recordDestination struct {
	Name       string            `json:"name"`
	Intentions []recordIntention `json:"intentions"`
}

type recordIntention struct {
	Source      string `json:"source"`
	Peer        string `json:"peer,omitempty"`
	ID          string `json:"spiffe_id,omitempty"`
	Allow       bool   `json:"allow,omitempty"`
	Unsupported string `json:"unsupported,omitempty"`
	Held        string `json:"held,omitempty"`
	Origin      string `json:"origin,omitempty"`

	Permissions []intention.Permission       `json:"permissions,omitempty"`
	JWT         []intention.TokenRequirement `json:"jwt,omitempty"`
}

// write replaces the file at path, and returns when that is on the disk.
func (r *record) write(path, dir string) error {
	return atomicfile.ReplaceBy(path, func(w io.Writer) error {
		hash := sha256.New()
		both := io.MultiWriter(w, hash)
		if _, err := io.WriteString(both, recordHead); err != nil {
			return err
		}
		numbers, next := make(map[*file]int, len(r.whole)), 0
		var line []byte
		text := func(t recordText) error {
			if !r.derived {
				numbers[t.file] = next
			}
			next++
			line = t.append(line[:0])
			if _, err := both.Write(line); err != nil {
				return err
			}
			_, err := w.Write(t.file.src)
			return err
		}
		for _, s := range r.states {
			if err := text(recordText{s.taken, s}); err != nil {
				return err
			}
		}
		for _, f := range r.whole {
			if _, ok := numbers[f.origin()]; !ok {
				if err := text(recordText{f.origin(), &state{}}); err != nil {
					return err
				}
			}
		}
		rest, err := json.Marshal(r.rest(dir, numbers))
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(both, "rest %s\n", rest); err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%x\n", hash.Sum(nil))
		return err
	})
}

func (r *record) rest(dir string, numbers map[*file]int) recordRest {
	rest := recordRest{Dir: dir, Derived: r.derived, Allow: r.def == intention.Allow}
	if r.whole != nil {
		rest.Whole = make([]recordPart, 0, len(r.whole))
	}
	for _, f := range r.whole {
		p := recordPart{Text: numbers[f.origin()]}
		if f.whole != nil {
			p.Titles = []recordTitle{}
			for _, d := range f.definitions {
				d.titles(func(t title, of aspects) { p.Titles = append(p.Titles, recordTitle{of, t.name}) })
			}
		}
		rest.Whole = append(rest.Whole, p)
	}
	if r.derived {
		return rest
	}
	for t, files := range r.losers { // in any order, as they are a set
		rest.Losers = append(rest.Losers, recordLosers{recordTitle{t.of, t.name}, files})
	}
	for _, d := range r.intentions {
		out := recordDestination{Name: d.Name.Service}
		for _, i := range d.Intentions {
			out.Intentions = append(out.Intentions, recordIntention{
				i.Source.Service, i.Source.Peer, string(i.Source.ID), i.Action == intention.Allow, i.Unsupported, i.Held, i.Origin,
				i.Permissions.List(), i.JWT.List(),
			})
		}
		rest.Intentions = append(rest.Intentions, out)
	}
	return rest
}

// append appends the line of t.
func (t *recordText) append(b []byte) []byte {
	b = append(b, "text "...)
	b = strconv.AppendInt(b, int64(len(t.file.src)), 10)
	b = append(b, ' ')
	b = hex.AppendEncode(b, t.file.sum[:])
	b = append(b, ' ')
	b = strconv.AppendInt(b, t.state.at.UnixNano(), 10)
	b = append(b, ' ')
	if t.state.refused != nil {
		b = hex.AppendEncode(b, t.state.refused.sum[:])
	} else {
		b = append(b, '-')
	}
	b = append(b, ' ')
	b = strconv.AppendQuote(b, t.file.name)
	b = append(b, ' ')
	b = strconv.AppendQuote(b, t.state.name)
	return append(b, '\n')
}

var errRecord = errors.New("it is not as it was written")

// readRecord reads the file at path, and decodes the texts: the files of which they are versions are
// those of states and, in their order, texts. There is no record where there is no file.
func (c *cache) readRecord(path string) (r *record, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in, hash := bufio.NewReaderSize(f, 64<<10), sha256.New()
	line := func() (string, error) {
		s, err := in.ReadString('\n')
		hash.Write([]byte(s))
		return s, err
	}
	if head, err := line(); err != nil || head != recordHead {
		return nil, errRecord
	}
	r = &record{}
	var texts []*file
	for {
		s, err := line()
		if err != nil {
			return nil, errRecord
		}
		if rest, ok := bytes.CutPrefix([]byte(s), []byte("rest ")); ok {
			sum := fmt.Sprintf("%x\n", hash.Sum(nil))
			if end, err := io.ReadAll(io.LimitReader(in, 1<<10)); err != nil || string(end) != sum {
				return nil, errRecord
			}
			return r, r.readRest(rest, c.config.Dir, texts)
		}
		t, err := c.readText(s, in)
		if err != nil {
			return nil, err
		}
		texts = append(texts, t.file)
		if t.state.name != "" {
			r.states = append(r.states, t.state)
		}
	}
}

func (c *cache) readText(line string, in io.Reader) (t recordText, err error) {
	var size int
	var at int64
	var sum, refused, of, name string
	if _, err := fmt.Sscanf(line, "text %d %s %d %s %q %q\n", &size, &sum, &at, &refused, &of, &name); err != nil || size < 0 || size > maxFileSize {
		return t, errRecord
	}
	src := make([]byte, size)
	if _, err := io.ReadFull(in, src); err != nil {
		return t, errRecord
	}
	t.file = decode(&c.config, c.seed, of, src, nil)
	if hex.EncodeToString(t.file.sum[:]) != sum {
		return t, errRecord
	}
	if len(t.file.problems) > 0 {
		return t, fmt.Errorf("what was taken is a mistake now: %w", t.file.problems)
	}
	t.state = &state{name: name, taken: t.file, at: time.Unix(0, at)}
	if refused != "-" {
		f := &file{name: name}
		if n, err := hex.Decode(f.sum[:], []byte(refused)); err != nil || n != sha256.Size {
			return t, errRecord
		}
		t.state.refused, t.state.since = f, time.Now()
	}
	return t, nil
}

func (r *record) readRest(src []byte, dir string, texts []*file) error {
	var rest recordRest
	if err := json.Unmarshal(src, &rest); err != nil {
		return errRecord
	}
	if rest.Dir != dir {
		return fmt.Errorf("it is of the directory %s", rest.Dir)
	}
	if r.derived = rest.Derived; rest.Allow {
		r.def = intention.Allow
	}
	w := whole{}
	if rest.Whole != nil {
		r.whole = make([]*file, 0, len(rest.Whole))
	}
	for _, p := range rest.Whole {
		if p.Text < 0 || p.Text >= len(texts) {
			return errRecord
		}
		f := texts[p.Text]
		if p.Titles != nil {
			f = w.only(f, p.Titles)
		}
		r.whole = append(r.whole, f)
	}
	r.losers = map[title][]string{}
	for _, t := range rest.Losers {
		r.losers[title{t.Of, t.Name}] = t.Files
	}
	for _, d := range rest.Intentions {
		out := &catalog.Destination{Name: identity.NewName(d.Name)}
		for _, i := range d.Intentions {
			in := intention.Intention{
				Source: intention.Source{Peer: i.Peer, ID: identity.ID(i.ID), Name: identity.NewName(i.Source)}, Destination: out.Name,
				Unsupported: i.Unsupported, Held: i.Held, Origin: i.Origin,
			}
			if i.ID != "" {
				in.Source.Name = identity.Name{}
			}
			if i.Allow {
				in.Action = intention.Allow
			}
			if in.Ask(i.Permissions, intention.NewTokens(i.JWT)) != nil {
				return errRecord // of a sallyport that takes other expressions
			}
			out.Intentions = append(out.Intentions, in)
		}
		r.intentions = append(r.intentions, out)
	}
	return nil
}

// only is the part of f that has these titles.
func (w *whole) only(f *file, titles []recordTitle) *file {
	want := map[recordTitle]bool{}
	for _, t := range titles {
		want[t] = true
	}
	less := &file{name: f.name, report: f.report, whole: f}
	for _, d := range f.definitions {
		var of aspects
		d.titles(func(t title, a aspects) {
			if want[recordTitle{a, t.name}] {
				of |= a
				delete(want, recordTitle{a, t.name}) // of two that are the same only one was in force
			}
		})
		less.definitions = append(less.definitions, w.part(d, of, map[part]*definitions{}))
	}
	return less
}

// restore makes l, which has taken nothing yet, go on from r. An error says why it cannot: it is as
// if there were no record then.
func (l *ledger) restore(r *record) error {
	files := r.whole
	var all said
	for _, s := range r.states {
		all.files, all.kept = append(all.files, s.taken), append(all.kept, s.refused != nil)
	}
	if files == nil {
		files = all.files
	}
	a := &assembler{config: l.config, ports: l.assembler.ports}
	if o := a.assemble(files); len(o.problems) > 0 {
		return fmt.Errorf("what was taken is a mistake now: %w", o.problems)
	}
	l.assembler, l.states, l.intentions, l.started = a, r.states, r.intentions, true
	l.whole.losers = r.losers
	if r.derived {
		l.intentions = l.config.allOf(all.entries())
	}
	if r.def == intention.Deny && l.config.Default == intention.Allow {
		l.intentions = denied(l.intentions)
	}
	return nil
}

// denied is list under a default that denies, where another holds: a file that is not taken may have
// the denies that the new one asks for.
func denied(list []*catalog.Destination) []*catalog.Destination {
	all := identity.NewName(identity.Wildcard)
	rest := intention.Intention{Source: intention.Source{Name: all}, Destination: all, Action: intention.Deny, Origin: "the default before the restart"}
	c := catalog.Contents{Intentions: slices.Clone(list)}
	i := slices.IndexFunc(list, func(d *catalog.Destination) bool { return d.Name == all })
	switch {
	case i < 0:
		c.Intentions = append(c.Intentions, &catalog.Destination{Name: all, Intentions: []intention.Intention{rest}})
	case !slices.ContainsFunc(list[i].Intentions, func(i intention.Intention) bool {
		return i.Source.Peer == "" && i.Source.ID == "" && i.Source.Service == identity.Wildcard
	}):
		c.Intentions[i] = &catalog.Destination{Name: all, Intentions: append(slices.Clone(list[i].Intentions), rest)}
	}
	c.Sort()
	return c.Intentions
}
