package files

import (
	"cmp"
	"crypto/sha256"
	"hash/maphash"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
)

// file is what one version of a file says. Nobody changes it once it is read.
type file struct {
	report
	name        string
	src         []byte            // its bytes; nil: they could not be read
	sum         [sha256.Size]byte // of src; zero: there is none
	volatile    bool              // it says something else when something outside changes
	definitions []*definitions
	// whole is the file of which this one has a part of the definitions; nil: it has all.
	whole *file
}

// origin is the file that has all of what f has a part of.
func (f *file) origin() *file { return cmp.Or(f.whole, f) }

// definitions are what a service definition says, with what is nested in it, or a config entry.
// Whether that fits to others is not looked at.
type definitions struct {
	definition.Reader
	report
	config *Config
	sum    uint64 // of what is written

	registrations []registration
	destination   destination      // of service-intentions; zero: none
	defaults      *serviceDefaults // nil: none
	proxyDefaults *proxyDefaults   // nil: none
	mesh          *mesh            // nil: none
	routing       *routing         // nil: none
	provider      *tokenProvider   // nil: none
}

// registration is one of a service or of a proxy; the other one is nil.
type registration struct {
	service *service
	proxy   *proxy
}

// destination is a service-intentions entry: the intentions of one destination.
type destination struct {
	at definition.Position
	*catalog.Destination
	entry *catalog.Entry // nil for what is no file's
}

// decoding reads the definitions of a file.
type decoding struct {
	*file
	config *Config
	seed   maphash.Seed
	before map[uint64]*definitions // in the version before
}

// decode reads a file's bytes. What is written as it was in before, a version without a mistake or
// nil, at the same lines, is taken from there.
func decode(config *Config, seed maphash.Seed, name string, src []byte, before *file) *file {
	f := &file{name: name, src: src, sum: sha256.Sum256(src)}
	documents, err := parse(name, src)
	if err != nil {
		f.unread(err.Line, err.Text)
		return f
	}
	d := decoding{f, config, seed, map[uint64]*definitions{}}
	if before != nil {
		for _, b := range before.definitions {
			d.before[b.sum] = b
		}
	}
	for _, n := range documents {
		d.document(n)
	}
	for _, d := range f.definitions {
		f.include(&d.report)
		f.volatile = f.volatile || d.Volatile
	}
	f.end(name)
	return f
}

// unread is a problem for which what the file says is not known.
func (f *file) unread(line int, text string) {
	f.problems = append(f.problems, Problem{File: f.name, Line: line, Text: text, Unread: true})
}

// document reads a file, or one of the documents of a YAML file: service definitions, or one config
// entry.
func (d *decoding) document(n *definition.Node) {
	r := definition.Reader{Report: func(m definition.Mistake) { d.problem(m.At, "%s", m.Text) }}
	o := r.Decoder(n, "the file")
	if k := o.Given("apiVersion"); len(k) > 0 {
		kubernetes(o, k[0].At)
		return
	}
	switch kinds := o.Given("kind"); len(kinds) {
	case 0:
	case 1:
		d.add(n, "the file", (*definitions).entry)
		return
	default:
		o.Mistake(kinds[1].At,
			"a second config entry in one file: put it into a file of its own, or all into config_entries { bootstrap = [ ... ] }")
		return
	}
	if f := misspelt(o, "Kind", "service", "services", "config_entries"); f != nil {
		// All else in it belongs to that.
		o.Mistake(f.At, "unknown key %.60q in the file: did you mean Kind?", f.Key)
		return
	}
	o.Hint = ": a file holds service, services or config_entries, or one config entry with its Kind"
	if n := len(o.Given("service")); n > 1 {
		o.Mistake(o.Given("service")[1].At, "service is given twice in the file: call the blocks services")
	} else if s := o.Field("service"); s != nil {
		d.add(s, "service", (*definitions).service)
	}
	for _, s := range o.Elements("services") {
		d.add(s, "service", (*definitions).service)
	}
	if c, ok := o.Child("config_entries", "config_entries"); ok {
		for _, e := range c.Elements("bootstrap") {
			d.add(e, "config entry", (*definitions).entry)
		}
		c.Done()
	}
	o.Know("service", "Kind")
	o.Unsupported("check", "checks")
	o.Done()
}

// misspelt is the key that is most likely a misspelling of key, where none of the others is given; nil:
// there is none.
func misspelt(o *definition.Decoder, key string, others ...string) *definition.Field {
	for _, k := range others {
		if len(o.Given(k)) > 0 {
			return nil
		}
	}
	for _, f := range o.Fields() {
		if definition.Nearest(f.Key, append([]string{key}, others...)) == key {
			return f
		}
	}
	return nil
}

// add reads n, which what says what it is.
func (d *decoding) add(n *definition.Node, what string, read func(*definitions, *definition.Decoder)) {
	var h maphash.Hash
	h.SetSeed(d.seed)
	n.Hash(&h)
	b := d.before[h.Sum64()]
	if delete(d.before, h.Sum64()); b == nil || b.Volatile { // of two that are the same each is its own
		b = &definitions{config: d.config, sum: h.Sum64()}
		b.Report = func(m definition.Mistake) { b.problem(m.At, "%s", m.Text) }
		read(b, b.Decoder(n, what))
	}
	d.definitions = append(d.definitions, b)
}
