package sidecar

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/internal/unixsocket"
	"golang.org/x/sys/unix"
)

// The files of a sidecar in its directory.
func bootstrapPath(dir string) string { return filepath.Join(dir, "bootstrap.json") }
func tokenPath(dir string) string     { return filepath.Join(dir, "token.json") }
func adminPath(dir string) string     { return filepath.Join(dir, "admin.sock") }
func lockPath(dir string) string      { return filepath.Join(dir, "lock") }

// AdminSocket is the path at which the Envoy of a proxy that this user runs has its administration,
// unless its sidecar was told otherwise. It is false if there is no directory of this user's in
// which it could be: what is in another user's may be anybody's.
func AdminSocket(runtimeDir, proxyID string) (path string, ok bool) {
	if !ownedByUser(runtimeDir) {
		runtimeDir = ownRuntimeDir()
	}
	return adminPath(filepath.Join(runtimeDir, dirName(runtimeDir, proxyID))), ownedByUser(runtimeDir)
}

// directory is the full path of the sidecar's directory: the one that was asked for, or one of the
// proxy's own in the runtime directory of the control plane, or of this user where that directory
// is somebody else's.
func (c Config) directory(runtimeDir, proxyID string) (string, error) {
	if c.Dir != "" {
		return filepath.Abs(c.Dir)
	}
	if !ownedByUser(runtimeDir) {
		runtimeDir = ownRuntimeDir()
		if err := admin.MakeDir(runtimeDir); err != nil {
			return "", err
		}
	}
	runtimeDir, err := filepath.Abs(runtimeDir)
	if err != nil {
		return "", err
	}
	name := dirName(runtimeDir, proxyID)
	if readable := readableName(proxyID); name != readable {
		linkReadable(runtimeDir, readable, name)
	}
	return filepath.Join(runtimeDir, name), nil
}

// rootsDir is where root's sidecars beside another user's control plane have their directories:
// admin.SystemDir, root's default, is that user's then, who could replace what is in it.
const rootsDir = "/run/sallyport-envoy"

// ownRuntimeDir is where this user's sidecars beside another user's control plane have theirs.
func ownRuntimeDir() string {
	if os.Geteuid() == 0 {
		return rootsDir
	}
	return admin.DefaultDir()
}

func ownedByUser(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == os.Geteuid()
}

// dirName is the name of a proxy's directory: the readable one, or where a socket's path would be
// too long with that a hash of the ID. Nomad's IDs are such.
func dirName(runtimeDir, proxyID string) string {
	name := readableName(proxyID)
	if dir, err := filepath.Abs(runtimeDir); err == nil && len(adminPath(filepath.Join(dir, name))) > unixsocket.MaxPath {
		sum := sha256.Sum256([]byte(proxyID))
		return fmt.Sprintf("sidecar,%x", sum[:8]) // a readable name has no comma
	}
	return name
}

// linkReadable makes the readable name of a directory lead to it. What a release that had no other
// name has made there becomes the directory, so that a sidecar that runs from it goes on, and keeps
// its lock. The link is for people: that it cannot be made hurts nobody else.
func linkReadable(runtimeDir, readable, name string) {
	link, dir := filepath.Join(runtimeDir, readable), filepath.Join(runtimeDir, name)
	if info, err := os.Lstat(link); err == nil && info.IsDir() {
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			_ = os.Rename(link, dir)
		}
	}
	_ = os.Symlink(name, link)
}

// readableName spells a proxy's ID, which may hold any character, as the name of a directory.
func readableName(proxyID string) string {
	name := url.PathEscape(proxyID)
	if strings.Trim(name, ".") == "" {
		name = strings.ReplaceAll(name, ".", "%2E")
	}
	return name
}

// removeFiles removes a directory of a proxy's own in the runtime directory: its files, its readable name
// and, unless somebody has put more into it, the directory. An orchestrator's next instance has
// another ID, so nobody else would. The caller holds the lock.
func removeFiles(dir, proxyID string) {
	for _, path := range []string{tokenPath(dir), bootstrapPath(dir), adminPath(dir), lockPath(dir), dir} {
		_ = os.Remove(path) // what is left is found, and used again, by the next start
	}
	link := filepath.Join(filepath.Dir(dir), readableName(proxyID))
	if to, err := os.Readlink(link); err == nil && to == filepath.Base(dir) {
		_ = os.Remove(link)
	}
}

// makeDirectory creates dir with mode 0700, or takes the one there is: in one that others may
// write to, or that they may replace, they could put a token or a bootstrap of their own.
func makeDirectory(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("sidecar's directory: %w", admin.WithRemedy(err, "-o"))
	}
	// What was named with -o may be anything, so how to mend it is not said: that would be wrong of
	// /tmp, or of somebody's home.
	err := admin.CheckDir(dir)
	if u, ok := errors.AsType[*admin.Untrusted](err); ok {
		return fmt.Errorf("sidecar's directory %s %s: name another, or a new one in it, with -o", u.Dir, u.Problem)
	}
	return err
}

// claim makes dir and keeps a second sidecar out of it until the file is closed or the process ends.
func claim(dir, proxyID string) (f *os.File, err error) {
	// One that ends may be removing it.
	for range 3 {
		if err = makeDirectory(dir); err != nil {
			return nil, err
		}
		if f, err = lock(dir, proxyID); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return f, err
}

// lock keeps a second sidecar out of dir until the file is closed or the process ends. It wraps
// fs.ErrNotExist if dir, or the lock, was removed meanwhile.
func lock(dir, proxyID string) (*os.File, error) {
	f, err := os.OpenFile(lockPath(dir), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sidecar's directory: %w", admin.WithRemedy(err, "-o"))
	}
	switch err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil && removed(f):
		err = fmt.Errorf("%s: %w", f.Name(), fs.ErrNotExist)
	case err == nil:
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		}
		err = admin.WithRemedy(err, "-o")
	case errors.Is(err, unix.EWOULDBLOCK):
		pid := make([]byte, 20)
		n, _ := f.ReadAt(pid, 0)
		err = fmt.Errorf("a sidecar of %s is already running here: pid %s holds %s: stop it first", proxyID, strings.TrimSpace(string(pid[:n])), f.Name())
	default:
		err = fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removed reports whether an open file's name leads to it no more.
func removed(f *os.File) bool {
	open, err := f.Stat()
	if err != nil {
		return true
	}
	named, err := os.Lstat(f.Name())
	return err != nil || !os.SameFile(open, named)
}
