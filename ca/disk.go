package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sallyport/sallyport/internal/keyring"
	"golang.org/x/sys/unix"
)

// disk is a directory that belongs to this process alone: other users cannot read it, and no other
// process has it open as a disk.
type disk struct {
	path string
	root *os.Root
	dir  *os.File // holds the lock; synced after each rename
	keys *keyring.Keyring
	// step is called before each operation that changes the directory and makes it fail; nil but in
	// tests.
	step func(operation string) error
}

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
	// maxFile bounds what is read: no file of ours comes near it.
	maxFile = 1 << 20
	// tmpSuffix marks a file that is being written. The lock makes the fixed name safe.
	tmpSuffix = ".tmp"
)

// openDisk makes the directory if it is missing, checks that other users have no access, and locks
// it. The lock ends with close, or with the process.
func openDisk(path string) (*disk, error) {
	if path == "" {
		return nil, errors.New("no directory for the CA: name one")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, dirMode); err != nil {
		return nil, fmt.Errorf("directory of the CA: %w", err)
	}
	named, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("directory of the CA: %w", err)
	}
	if named.Mode()&fs.ModeSymlink != 0 {
		return nil, fmt.Errorf("%s: is a symbolic link, whose target others may choose: name the directory itself", path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("directory of the CA: %w", err)
	}
	d := &disk{path: path, root: root}
	if err := d.lock(named); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// lock checks that the open directory is the one that named describes, and locks it. The lock is on
// the directory and not on a file in it, so it needs no write and cannot be removed and made anew
// beside a running process.
func (d *disk) lock(named fs.FileInfo) error {
	dir, err := d.root.Open(".")
	if err != nil {
		return fmt.Errorf("directory of the CA: %w", err)
	}
	d.dir = dir
	opened, err := dir.Stat()
	if err != nil {
		return fmt.Errorf("directory of the CA: %w", err)
	}
	if !os.SameFile(named, opened) {
		return fmt.Errorf("%s: was replaced while it was being opened: find out by whom, then start again", d.path)
	}
	if err := access(d.path, opened, dirMode); err != nil {
		return err
	}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%s: is in use by another process, and one CA must not be run twice: stop the other one (fuser %s names it) or choose another directory", d.path, d.path)
	case err != nil:
		return fmt.Errorf("%s: cannot be locked (%w): choose a directory on a local file system", d.path, err)
	}
	return nil
}

// close releases the lock.
func (d *disk) close() error {
	err := d.root.Close()
	if d.dir != nil {
		err = errors.Join(err, d.dir.Close())
	}
	return err
}

// access checks that other users can neither read nor replace the file or directory at path. info
// comes from Lstat. The mode may be stricter than most, as long as the owner can read it.
func access(path string, info fs.FileInfo, most fs.FileMode) error {
	owner := -1
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(stat.Uid)
	}
	return checkAccess(path, info.Mode(), most, owner, os.Geteuid())
}

// checkAccess is access with the owner and the process's user as numbers. owner is -1 where the
// system does not say.
func checkAccess(path string, mode, most fs.FileMode, owner, us int) error {
	kind := mode.Type()
	switch {
	case kind&fs.ModeSymlink != 0:
		return fmt.Errorf("%s: is a symbolic link: put the file itself there", path)
	case kind == fs.ModeDir && most != dirMode:
		return fmt.Errorf("%s: is a directory, want a file: move it away", path)
	case kind != fs.ModeDir && most == dirMode:
		return fmt.Errorf("%s: is not a directory: move it away or name another", path)
	case kind&^fs.ModeDir != 0:
		return fmt.Errorf("%s: is not a regular file: move it away", path)
	case owner != us:
		return fmt.Errorf("%s: belongs to user %d, and sallyport runs as user %d: chown %d %s, if you trust what is in it", path, owner, us, us, path)
	case mode.Perm()&^most != 0:
		return fmt.Errorf("%s: mode %04o lets others at the private keys of the CA: chmod %04o %s, and take the keys for known if others could read them", path, mode.Perm(), most, path)
	case mode.Perm()&0o400 == 0:
		return fmt.Errorf("%s: mode %04o does not let its owner read it: chmod %04o %s", path, mode.Perm(), most, path)
	}
	return nil
}

// read returns what was written to a file, decrypted. The error wraps fs.ErrNotExist if there is none.
func (d *disk) read(name string) ([]byte, error) {
	plain, _, err := d.unseal(name)
	return plain, err
}

// unseal is read; current is false if write would now encrypt otherwise.
func (d *disk) unseal(name string) (plain []byte, current bool, err error) {
	data, err := d.readRaw(name)
	if err != nil {
		return nil, false, err
	}
	return d.keys.Unseal(filepath.Join(d.path, name), data)
}

// title is what the first line of a file, which stays in clear, says of it.
func title(name string) string {
	for first, p := range map[string]profile{rootFile: rootProfile(), intermediateFile: intermediateProfile()} {
		if isPairFile(name, first) {
			return "CA " + p.name
		}
	}
	return "CA " + strings.TrimSuffix(name, filepath.Ext(name))
}

// encrypt has a file be as write would make it now: encrypted, if it was written in clear or to another identity.
func (d *disk) encrypt(name string) {
	plain, current, err := d.unseal(name)
	if err != nil || current { // who needs the file reads it again, and says what is wrong
		return
	}
	d.keys.Renew(filepath.Join(d.path, name), title(name), plain, func(data []byte) error { return d.replace(name, data) })
}

// readRaw returns a file's bytes.
func (d *disk) readRaw(name string) ([]byte, error) {
	path := filepath.Join(d.path, name)
	info, err := d.root.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, errors.Unwrap(err))
	}
	if err := access(path, info, fileMode); err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: has %d bytes, which no file of the CA has: restore it from a backup", path, info.Size())
	}
	data, err := d.root.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

// write replaces a file as a whole, encrypted: after a crash at any point there is the old one or the new one.
// It returns when the new one is on the disk; after an error the old one is there, unless the last
// step failed: then it may be either.
func (d *disk) write(name string, plain []byte) error {
	data, err := d.keys.Seal(title(name), plain)
	if err != nil {
		return fmt.Errorf("%s: encrypt: %w", filepath.Join(d.path, name), err)
	}
	return d.replace(name, data)
}

// replace is write of bytes as they are.
func (d *disk) replace(name string, data []byte) error {
	tmp := name + tmpSuffix
	err := d.writeTmp(tmp, data)
	if err == nil {
		err = d.do("rename "+name, func() error { return d.root.Rename(tmp, name) })
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: write: %w", filepath.Join(d.path, name), err), d.removeTmp(name))
	}
	if err := d.do("sync directory after "+name, d.dir.Sync); err != nil {
		return fmt.Errorf("%s: write: %w", filepath.Join(d.path, name), err)
	}
	return nil
}

func (d *disk) writeTmp(tmp string, data []byte) (err error) {
	var f *os.File
	if err := d.do("create "+tmp, func() error {
		f, err = d.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
		return err
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := d.do("write "+tmp, func() error { _, err := f.Write(data); return err }); err != nil {
		return err
	}
	return d.do("sync "+tmp, f.Sync)
}

// removeTmp removes the temporary file of an unfinished write; none is no error.
func (d *disk) removeTmp(name string) error {
	err := d.do("remove "+name+tmpSuffix, func() error { return d.root.Remove(name + tmpSuffix) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d *disk) do(operation string, f func() error) error {
	if d.step != nil {
		if err := d.step(operation); err != nil {
			return err
		}
	}
	return f()
}
