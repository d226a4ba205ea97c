package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
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
		return nil, fmt.Errorf("catalog directory: %w: %s", pathless(err), unreadable(err))
	}
	var out []listed
	for _, e := range entries {
		if format(e.Name()) == "" || isRevoked(e.Name()) {
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

// unreadable says how to mend that a directory cannot be listed.
func unreadable(err error) string {
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return "name the directory that the file is in"
	case errors.Is(err, fs.ErrNotExist):
		return "make it, or name another"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("let uid %d read it", os.Geteuid())
	}
	return "see whether what it is on is there and can be read"
}

// same reports whether nothing was changed between two listings, as far as that can be seen from outside.
func same(a, b []listed) bool { return slices.EqualFunc(a, b, listed.same) }

func (l listed) same(o listed) bool {
	if l.name != o.name || (l.info == nil) != (o.info == nil) {
		return false
	}
	return l.info == nil || os.SameFile(l.info, o.info) && l.info.Size() == o.info.Size() && l.info.Mode() == o.info.Mode() &&
		l.info.ModTime().Equal(o.info.ModTime()) && statusChanged(l.info).Equal(statusChanged(o.info))
}

// granule is how far apart two changes of a file must be for its times to differ: FAT has 2 s.
const granule = 3 * time.Second

// settled reports whether the last change of l was so long ago that the next one has another time.
func (l listed) settled() bool {
	return l.info != nil && time.Since(l.info.ModTime()) > granule && time.Since(statusChanged(l.info)) > granule
}

var errNotRegular = errors.New("is not a regular file")

// readFile returns a file's bytes, in buffer if they fit.
func readFile(path string, l listed, buffer []byte) ([]byte, error) {
	switch {
	case l.err != nil:
		return buffer, pathless(l.err)
	case !l.info.Mode().IsRegular():
		return buffer, errNotRegular
	}
	// By now a pipe or a device may have the name: opening one would wait for somebody at its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return buffer, pathless(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return buffer, pathless(err)
	} else if !info.Mode().IsRegular() {
		return buffer, errNotRegular
	}
	b := bytes.NewBuffer(buffer[:0])
	if _, err := b.ReadFrom(io.LimitReader(f, maxFileSize+1)); err != nil {
		return b.Bytes(), pathless(err)
	}
	if b.Len() > maxFileSize {
		return b.Bytes(), fmt.Errorf("is larger than %d bytes: split it", maxFileSize)
	}
	return b.Bytes(), nil
}

// pathless is what went wrong without the path, which a Problem has already.
func pathless(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
