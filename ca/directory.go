package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// names are those of the files in the directory.
func (d *disk) names() ([]string, error) {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("directory of the CA: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// remove removes a file for good; one that is not there is no error.
func (d *disk) remove(name string) error {
	err := d.do("remove "+name, func() error { return d.root.Remove(name) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = d.do("sync directory after "+name, d.dir.Sync)
	}
	if err != nil {
		return fmt.Errorf("%s: remove: %w", filepath.Join(d.path, name), err)
	}
	return nil
}

// pairFile is the name of the file for a pair beside the one in first, which is rootFile or intermediateFile.
func pairFile(first, sha string) string {
	return strings.TrimSuffix(first, ".pem") + "-" + sha[:8] + ".pem"
}

// isPairFile reports whether name is first, or one of pairFile's.
func isPairFile(name, first string) bool {
	return name == first || len(name) == len(pairFile(first, strings.Repeat("0", 8))) &&
		strings.HasPrefix(name, strings.TrimSuffix(first, ".pem")+"-") && strings.HasSuffix(name, ".pem")
}

// files are those that the directory is to have, by name. a.mu is held.
func (a *authority) files() (map[string][]byte, error) {
	want := map[string][]byte{}
	put := func(name string, p profile, own *pair, others []*x509.Certificate) error {
		content, err := encode(p, own, others)
		want[name] = content
		return err
	}
	plain := a.rec.plain()
	for sha, own := range a.pairs {
		dropped := func(d dropped) bool { return d.SHA256 == sha }
		var err error
		switch {
		case sha == a.rec.Active && plain:
			err = put(rootFile, rootProfile(), own, a.rec.certificates(all)[1:])
		case sha == a.rec.Active:
			err = put(rootFile, rootProfile(), own, nil)
		case a.rec.root(sha) != nil || slices.ContainsFunc(a.rec.Dropped, dropped):
			err = put(pairFile(rootFile, sha), rootProfile(), own, nil)
		}
		if err != nil {
			return nil, err
		}
	}
	if s := a.intermediate; s != nil {
		if err := put(intermediateFile, intermediateProfile(), s.pair, s.above); err != nil {
			return nil, err
		}
	}
	if plain {
		return want, nil
	}
	content, err := a.rec.encode()
	want[recordFile] = content
	return want, err
}

// settle brings the directory into the form that files says: keys that are to be kept elsewhere are written there before they leave
// their place, and the record, which says what the files are, leaves last. a.mu is held.
func (a *authority) settle() error {
	want, err := a.files()
	if err != nil {
		return err
	}
	names, err := a.disk.names()
	if err != nil {
		return err
	}
	order := slices.SortedFunc(maps.Keys(want), func(x, y string) int {
		first := func(name string) int { return slices.Index([]string{rootFile, intermediateFile, recordFile}, name) }
		return first(x) - first(y) // others before them
	})
	for _, name := range order {
		if is, err := a.disk.read(name); err == nil && bytes.Equal(is, want[name]) {
			continue
		}
		if err := a.disk.write(name, want[name]); err != nil {
			return err
		}
	}
	for _, name := range names {
		if want[name] == nil && a.needless(name) {
			if err := a.disk.remove(name); err != nil {
				return err
			}
		}
	}
	if want[recordFile] == nil && slices.Contains(names, recordFile) {
		return a.disk.remove(recordFile)
	}
	return nil
}

// needless reports whether a file that is not wanted is one that we wrote: others may have put a backup there.
func (a *authority) needless(name string) bool {
	for first, p := range map[string]profile{rootFile: rootProfile(), intermediateFile: intermediateProfile()} {
		if name == first {
			return true
		}
		if !isPairFile(name, first) {
			continue
		}
		data, err := a.disk.read(name)
		if err != nil {
			return false
		}
		own, _, err := decode(p, data)
		return err == nil && name == pairFile(first, fingerprint(own.cert))
	}
	return false
}
