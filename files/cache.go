package files

import (
	"crypto/sha256"

	"github.com/sallyport/sallyport/identity"
)

// cache remembers what files said when they were read last, so that a change of one costs no
// reading of the others. It goes by the bytes: what a file says depends on its name, its bytes and
// the configuration, which never changes. Sizes and times can lie (a rewrite within the clock's
// resolution, a restored backup), so each file's bytes are read and hashed every time. An empty one
// remembers nothing.
type cache map[string]cachedFile

type cachedFile struct {
	sum  [sha256.Size]byte
	said *directory
}

// file is what a file says: remembered, or read. ok is false if it cannot be parsed.
func (c cache) file(config Config, name string, src []byte) (said *directory, ok bool) {
	sum := sha256.Sum256(src)
	if f := c[name]; f.said != nil && f.sum == sum {
		return f.said, true
	}
	delete(c, name)
	said = newDirectory(config)
	ok = said.file(name, src)
	// A file with a mistake is read again each time: the mistake may be that something outside of
	// it is missing.
	if ok && len(said.problems) == 0 && !said.Volatile {
		c[name] = cachedFile{sum, said}
	}
	return said, ok
}

// keep forgets the files that are not among those listed.
func (c cache) keep(files []listed) {
	present := make(map[string]bool, len(files))
	for _, f := range files {
		present[f.name] = true
	}
	for name := range c {
		if !present[name] {
			delete(c, name)
		}
	}
}

// add merges f into d and reports conflicts. It does not modify f.
func (d *directory) add(f *directory) {
	d.problems = append(d.problems, f.problems...)
	d.warnings = append(d.warnings, f.warnings...)
	for _, s := range f.services {
		if d.claim(s.id, s.at) {
			d.services = append(d.services, s)
		}
	}
	for _, p := range f.proxies {
		if d.claim(p.id, p.at) {
			d.proxies = append(d.proxies, p)
		}
	}
	fresh := map[identity.Name]bool{}
	for name, at := range f.destinations {
		fresh[identity.NewName(name)] = d.destination(name, at)
	}
	for _, i := range f.intentions {
		if fresh[i.Destination] {
			d.intentions = append(d.intentions, i)
		}
	}
	for name, e := range f.defaults {
		d.addDefaults(name, e)
	}
	if f.proxyDefaults != nil {
		d.addProxyDefaults(f.proxyDefaults)
	}
	if f.mesh != nil {
		d.addMesh(f.mesh)
	}
}
