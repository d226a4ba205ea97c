package svidfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/admin"
)

// Names of the files, and of the link to the directory that has them.
const (
	svidName  = "svid.pem"
	keyName   = "key.pem"
	rootsName = "roots.pem"
	// current is the link in the directory of --out, and what servers name in their configuration.
	current = "current"
	nextTmp = ".current.tmp"
)

// generation is the name of a directory of files that was made at a time.
var generation = regexp.MustCompile(`^svid-[0-9]{19}$`)

// directory is where the files are written: each time into a directory of their own, to which a link then leads.
type directory struct {
	path string
	gid  int // of the key; -1: it is its owner's alone
	lock *os.File
}

// openDirectory makes the directory if it is missing, and refuses one that others may write to, or that somebody else has open.
func openDirectory(path, group string) (*directory, error) {
	d := &directory{gid: -1}
	var err error
	if group != "" {
		if d.gid, err = groupID(group); err != nil {
			return nil, err
		}
	}
	if d.path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("--out: %w", err)
	}
	if err := admin.CheckDir(d.path); err != nil {
		return nil, fmt.Errorf("--out: %w, or choose another directory", err)
	}
	link := filepath.Join(d.path, current)
	if info, err := os.Lstat(link); err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return nil, fmt.Errorf("%s: is not a symbolic link, which a switch of all files at once takes: move it away", link)
	}
	if d.lock, err = os.Open(d.path); err != nil {
		return nil, fmt.Errorf("--out: %w", err)
	}
	if err := syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = d.lock.Close()
		return nil, fmt.Errorf("--out: %s: another process writes there (%w): stop it, or choose another directory", d.path, err)
	}
	return d, nil
}

func (d *directory) close() { _ = d.lock.Close() }

func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		if g, err = user.LookupGroupId(name); err != nil {
			return 0, fmt.Errorf("--group: there is no group %q: name that of the server which reads the key", name)
		}
	}
	return strconv.Atoi(g.Gid)
}

// read returns what the files have now; nil: they are not there, or not all of them.
func (d *directory) read() *material {
	m := &material{}
	for name, b := range map[string]*[]byte{svidName: &m.svid, keyName: &m.key, rootsName: &m.roots} {
		var err error
		if *b, err = os.ReadFile(filepath.Join(d.path, current, name)); err != nil {
			return nil
		}
	}
	chain, err := certificates(string(m.svid))
	if err != nil {
		return nil
	}
	m.leaf = chain[0]
	return m
}

// write puts m in the place of the files that are there, all at once, and returns when that is on the disk. After an error
// those of before are there. The directory of the last ones stays, for who has just followed the link to it.
func (d *directory) write(m *material, now time.Time) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("files not written, those of before stay: %w", err)
		}
	}()
	name := fmt.Sprintf("svid-%019d", now.UnixNano())
	dir := filepath.Join(d.path, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	keyMode := fs.FileMode(0o600)
	if d.gid >= 0 {
		keyMode = 0o640
	}
	for _, f := range []struct {
		name string
		b    []byte
		mode fs.FileMode
		gid  int
	}{{svidName, m.svid, 0o644, -1}, {keyName, m.key, keyMode, d.gid}, {rootsName, m.roots, 0o644, -1}} {
		if err := create(filepath.Join(dir, f.name), f.b, f.mode, f.gid); err != nil {
			return err
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // certificates are public, and the key has a mode of its own
		return err
	}
	if err := syncDirectory(dir); err != nil {
		return err
	}
	old, _ := os.Readlink(filepath.Join(d.path, current))
	tmp := filepath.Join(d.path, nextTmp)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(name, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(d.path, current)); err != nil {
		return err
	}
	// From here on the new ones are there: what follows takes nothing of that back.
	_ = syncDirectory(d.path)
	d.tidy(name, old)
	return nil
}

// create makes a file that nobody else can read before it has its mode.
func create(path string, b []byte, mode fs.FileMode, gid int) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if gid >= 0 {
		if err := f.Chown(-1, gid); err != nil {
			return fmt.Errorf("--group: %w: run as root, or as a member of the group", err)
		}
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

func syncDirectory(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// tidy removes the directories of files that nobody needs any more. One that cannot be removed is tried again the next time.
func (d *directory) tidy(keep ...string) {
	entries, _ := os.ReadDir(d.path)
	for _, e := range entries {
		if e.IsDir() && generation.MatchString(e.Name()) && !slices.Contains(keep, e.Name()) {
			_ = os.RemoveAll(filepath.Join(d.path, e.Name()))
		}
	}
}
