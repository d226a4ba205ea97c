package files

import (
	"bytes"
	"hash/maphash"
	"path/filepath"
)

// cache reads files, and remembers what they said when they were read last, so that a change of one
// costs neither reading nor decoding of the others (docs/adr/0009-which-files-are-read.md).
//
// A file is not read again if nothing of it that can be seen from outside was changed, and not
// recently. Else its bytes decide. That nobody outside knows the seed of their hash makes 64 bits
// enough: one change in 2^64 would be missed, and none on purpose.
type cache struct {
	config   Config
	seed     maphash.Seed
	versions map[string]version // by the file's name
	buffer   []byte
	// readAll has the next reading trust nothing but bytes.
	readAll bool
}

// version is a file as it was read last without a mistake.
type version struct {
	listed
	settled bool // when it was read
	sum     uint64
	*file
	// old says that it was read since, and found mistaken.
	old bool
}

func newCache(config Config) *cache { return &cache{config: config, seed: maphash.MakeSeed()} }

// read is what the files say: the same pointers as before for those that did not change, and in
// others for the definitions that did not. What is wrong with one is among its problems.
func (c *cache) read(listing []listed) []*file {
	files := make([]*file, len(listing))
	versions := make(map[string]version, len(listing))
	for i, l := range listing {
		before := c.versions[l.name]
		if before.settled && !before.volatile && before.listed.same(l) && !c.readAll {
			files[i], versions[l.name] = before.file, before
			continue
		}
		v := version{listed: l, settled: l.settled(), file: before.file, old: before.old}
		var err error
		if c.buffer, err = readFile(filepath.Join(c.config.Dir, l.name), l, c.buffer); err != nil {
			files[i] = &file{name: l.name}
			files[i].unread(0, err.Error())
			keep(versions, before)
			continue
		}
		v.sum = maphash.Bytes(c.seed, c.buffer)
		if v.file == nil || v.volatile || v.old || v.sum != before.sum {
			v.file = decode(&c.config, c.seed, l.name, bytes.Clone(c.buffer), before.file)
		}
		files[i] = v.file
		// A file with a mistake is decoded again each time: the mistake may be that something
		// outside of it is missing.
		if len(v.problems) > 0 {
			keep(versions, before)
			continue
		}
		v.old = false
		versions[l.name] = v
	}
	c.versions, c.readAll = versions, false
	return files
}

// keep remembers what a file said before the mistake, most of which it will say again.
func keep(versions map[string]version, v version) {
	if v.file != nil {
		v.settled, v.old = false, true
		versions[v.file.name] = v
	}
}

// know has files that say the same as before a restart come out as the same.
func (c *cache) know(states []*state) {
	c.versions = make(map[string]version, len(states))
	for _, s := range states {
		if s.taken.name == s.name { // else the positions in it are of another file
			c.versions[s.name] = version{sum: maphash.Bytes(c.seed, s.taken.src), file: s.taken}
		}
	}
}

// changed reports whether a file has other bytes than when it was read, of those that had changed so
// lately that another change need not show in what can be seen from outside.
func (c *cache) changed() bool {
	for name, v := range c.versions {
		if v.settled || v.old {
			continue
		}
		v.settled = v.listed.settled() // before it is read
		var err error
		c.buffer, err = readFile(filepath.Join(c.config.Dir, name), v.listed, c.buffer)
		if err != nil || maphash.Bytes(c.seed, c.buffer) != v.sum {
			return true
		}
		c.versions[name] = v
	}
	return false
}
