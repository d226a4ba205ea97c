package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/intention"
)

// maxFileSize bounds a file.
const maxFileSize = 10 << 20

// listed is a file of the directory as it was when the directory was listed.
type listed struct {
	name string
	info fs.FileInfo // of what a symlink points to; nil if that could not be found out
	err  error       // why not
}

// format is what a file is read as: "hcl", "json", "yaml"; empty for files that are none of ours.
func format(name string) string {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") { // also what editors leave: .web.hcl.swp, #web.hcl#
		return ""
	}
	switch filepath.Ext(name) {
	case ".hcl":
		return "hcl"
	case ".json":
		return "json"
	case ".yaml", ".yml":
		return "yaml"
	}
	return "" // web.hcl~ among them
}

// scan finds the files to read, sorted by name. A directory without any is an error: a mount that has not come yet looks just
// the same, and must not pass for a mesh without services.
func scan(dir string) ([]listed, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("catalog directory: %w", pathless(err))
	}
	var out []listed
	for _, e := range entries {
		if format(e.Name()) == "" {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err == nil && info.IsDir() {
			continue
		}
		out = append(out, listed{name: e.Name(), info: info, err: err})
	}
	if len(out) == 0 {
		return nil, errors.New("no definitions: the directory has no file *.hcl, *.json, *.yaml or *.yml (a file that holds a comment alone is enough for a mesh without services)")
	}
	return out, nil
}

// same reports whether nothing was changed between two listings, as far as that can be seen from outside.
func same(a, b []listed) bool {
	return slices.EqualFunc(a, b, func(a, b listed) bool {
		if a.name != b.name || (a.info == nil) != (b.info == nil) {
			return false
		}
		return a.info == nil || os.SameFile(a.info, b.info) && a.info.Size() == b.info.Size() && a.info.ModTime().Equal(b.info.ModTime()) && a.info.Mode() == b.info.Mode()
	})
}

// readFile returns a file's bytes.
func readFile(path string, l listed) ([]byte, error) {
	switch {
	case l.err != nil:
		return nil, pathless(l.err)
	case !l.info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, pathless(err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, pathless(err)
	}
	if len(src) > maxFileSize {
		return nil, fmt.Errorf("is larger than %d bytes: split it", maxFileSize)
	}
	return src, nil
}

// pathless is what went wrong without the path, which a Problem has already.
func pathless(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// directory is what was read from all files.
type directory struct {
	*reader
	config Config

	services []*service
	proxies  []*proxy
	ids      map[string]definition.Position // of services and proxies

	intentions    []intention.Intention
	destinations  map[string]definition.Position // of the service-intentions
	defaults      map[string]*serviceDefaults
	proxyDefaults *proxyDefaults
	mesh          *mesh
}

// reading is the outcome of reading a directory.
type reading struct {
	contents catalog.Contents
	ports    map[string]uint16 // what is to be remembered of chosen ports
	files    int
	problems Errors // if there are any, contents and ports mean nothing
	warnings Errors
}

// read reads the files and puts their contents together. remembered are the ports that were chosen before.
//
// before are the files that were read before, by their bytes; it is kept up to date. nil: all are read.
func read(config Config, files []listed, remembered map[string]uint16, before cache) reading {
	if before == nil {
		before = cache{}
	}
	before.keep(files)
	d := newDirectory(config)
	whole := true
	for _, f := range files {
		src, err := readFile(filepath.Join(config.Dir, f.name), f)
		if err != nil {
			d.unread(definition.Position{File: f.name}, err.Error())
			whole = false
			continue
		}
		said, ok := before.file(config, f.name, src)
		d.add(said)
		whole = ok && whole
	}
	r := reading{files: len(files)}
	if whole { // else what one file says of another one's contents would be reported as missing
		r.contents, r.ports = d.assemble(remembered)
	}
	r.problems, r.warnings = d.problems.sorted(), d.warnings.sorted()
	return r
}

func newDirectory(config Config) *directory {
	return &directory{
		reader: newReader(), config: config,
		ids: map[string]definition.Position{}, destinations: map[string]definition.Position{}, defaults: map[string]*serviceDefaults{},
	}
}

// file reads one file. It is false if the file cannot be parsed.
func (d *directory) file(name string, src []byte) bool {
	documents, err := parse(name, src)
	if err != nil {
		d.unread(definition.Position{File: name, Line: err.Line}, err.Text)
		return false
	}
	for _, n := range documents {
		d.document(n)
	}
	return true
}

// unread is a problem for which a file is not known at all.
func (d *directory) unread(at definition.Position, text string) {
	d.problems = append(d.problems, Problem{File: at.File, Line: at.Line, Text: text, Unread: true})
}

// document reads a file, or one of the documents of a YAML file: service definitions, or one config entry.
func (d *directory) document(n *definition.Node) {
	o := d.Decoder(n, "the file")
	switch kinds := o.Given("kind"); len(kinds) {
	case 0:
	case 1:
		d.entry(o)
		return
	default:
		o.Mistake(kinds[1].At, "a second config entry in one file: put it into a file of its own, or all into config_entries { bootstrap = [ ... ] }")
		return
	}
	o.Hint = ": a file holds service, services or config_entries, or one config entry with its Kind"
	if n := len(o.Given("service")); n > 1 {
		o.Mistake(o.Given("service")[1].At, "service is given twice in the file: call the blocks services")
	} else if s, ok := o.Child("service", "service"); ok {
		d.service(s)
	}
	for _, s := range o.Children("services", "service") {
		d.service(s)
	}
	if c, ok := o.Child("config_entries", "config_entries"); ok {
		for _, e := range c.Children("bootstrap", "config entry") {
			d.entry(e)
		}
		c.Done()
	}
	o.Know("service", "Kind")
	o.Unsupported("check", "checks")
	o.Done()
}
