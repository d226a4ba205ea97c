// Package atomicfile replaces files atomically: a reader finds the old content or the new, also
// after a crash.
package atomicfile

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Replace puts data in the place of the file at path, with mode 0600, and returns when it is on the
// disk. After an error the old file is there, unless syncing the directory failed: then it may be
// either. Files that a crash left behind begin with a dot and end in ".tmp".
func Replace(path string, data []byte) error { return write(path, put(data), os.Rename) }

// ReplaceBy is Replace with what fill writes, little by little.
func ReplaceBy(path string, fill func(io.Writer) error) error {
	return write(path, func(f *os.File) error {
		w := bufio.NewWriterSize(f, 64<<10)
		return errors.Join(fill(w), w.Flush())
	}, os.Rename)
}

// Rewrite is Replace for a file of people: it keeps the mode of the one that is there and, where the process may, its owner. mode is
// that of a new one. A symbolic link stays, and what it leads to is replaced.
func Rewrite(path string, data []byte, mode fs.FileMode) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	uid, gid := -1, -1
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(s.Uid), int(s.Gid)
		}
	}
	return write(path, func(f *os.File) error {
		if uid >= 0 {
			_ = f.Chown(uid, gid) // who may not give it away keeps it
		}
		_, err := f.Write(data)
		return errors.Join(err, f.Chmod(mode))
	}, os.Rename)
}

// Create is Replace for a file that does not exist. It does not replace one that another process
// made meanwhile; the error then wraps fs.ErrExist.
func Create(path string, data []byte) error { return write(path, put(data), os.Link) }

func put(data []byte) func(*os.File) error {
	return func(f *os.File) error {
		_, err := f.Write(data)
		return err
	}
}

func write(path string, fill func(*os.File) error, place func(from, to string) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err = fill(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := place(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
