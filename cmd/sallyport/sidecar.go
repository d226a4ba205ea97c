package main

import (
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
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"golang.org/x/sys/unix"
)

// The files of a sidecar in its directory.
func bootstrapPath(dir string) string { return filepath.Join(dir, "bootstrap.json") }
func tokenPath(dir string) string     { return filepath.Join(dir, "token.json") }
func adminPath(dir string) string     { return filepath.Join(dir, "admin.sock") }
func lockPath(dir string) string      { return filepath.Join(dir, "lock") }

// sidecarDir is the directory of a sidecar's files unless it is told: one of the proxy's own in the runtime directory of the
// control plane, or of this user where that directory is somebody else's.
func sidecarDir(runtimeDir, proxyID string) (string, error) {
	if !ownedByUser(runtimeDir) {
		runtimeDir = admin.DefaultDir()
		if err := admin.MakeDir(runtimeDir); err != nil {
			return "", err
		}
	}
	return filepath.Abs(filepath.Join(runtimeDir, dirName(proxyID)))
}

func ownedByUser(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == os.Geteuid()
}

// dirName spells a proxy's ID, which may hold any character, as the name of a directory.
func dirName(proxyID string) string {
	name := url.PathEscape(proxyID)
	if strings.Trim(name, ".") == "" {
		name = strings.ReplaceAll(name, ".", "%2E")
	}
	return name
}

// makeSidecarDir creates dir with mode 0700, or checks the one there is: in one that others may write to they could put a
// token or a bootstrap of their own.
func makeSidecarDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory: remove it, or name another with -o", dir)
	case ok && int(owner.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to uid %d, not to %d: name another with -o", dir, owner.Uid, os.Geteuid())
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s may be written to by others (mode %04o): chmod go-w %s", dir, info.Mode().Perm(), dir)
	}
	return nil
}

// lockSidecar keeps a second sidecar out of dir until release is called or the process ends.
func lockSidecar(dir, proxyID string) (release func(), err error) {
	f, err := os.OpenFile(lockPath(dir), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		pid := make([]byte, 20)
		n, _ := f.ReadAt(pid, 0)
		return nil, fmt.Errorf("a sidecar of %s is already running here: pid %s holds %s (stop it first)", proxyID, strings.TrimSpace(string(pid[:n])), f.Name())
	}
	release = func() { _ = f.Close() }
	if err := f.Truncate(0); err != nil {
		release()
		return nil, err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// writeToken replaces the token in dir. A running Envoy sends the new one with its next request to the control plane.
func writeToken(dir, token string) error {
	content, err := bootstrap.TokenFile(token)
	if err != nil {
		return fmt.Errorf("answer of the control plane: %w", err)
	}
	return atomicfile.Replace(tokenPath(dir), content)
}

// writeSidecar writes the files of a sidecar and returns the path of the bootstrap.
func writeSidecar(dir, token string, p bootstrap.Params) (string, error) {
	b, err := bootstrap.Build(p)
	if errors.Is(err, bootstrap.ErrAdminRemote) {
		err = fmt.Errorf("%w (--admin-allow-remote)", err)
	}
	if err != nil {
		return "", err
	}
	content, err := bootstrap.JSON(b)
	if err != nil {
		return "", err
	}
	if err := writeToken(dir, token); err != nil {
		return "", err
	}
	path := bootstrapPath(dir)
	return path, atomicfile.Replace(path, content)
}
