package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/unixsocket"
)

// SystemDir is where the sockets of a control plane that root runs are by default.
const SystemDir = "/run/sallyport"

// DefaultDir is where `sallyport serve` puts its sockets unless told: SystemDir for root, else
// under XDG_RUNTIME_DIR, else a directory of the user's own under the temporary directory.
func DefaultDir() string {
	if os.Geteuid() == 0 {
		return SystemDir
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return filepath.Join(d, "sallyport")
	}
	return filepath.Join(os.TempDir(), "sallyport-"+strconv.Itoa(os.Geteuid()))
}

// Socket is the path of the admin socket in a runtime directory.
func Socket(dir string) string { return filepath.Join(dir, "admin.sock") }

// HTTPSocket is the path of the socket on which applications ask Consul's HTTP API.
func HTTPSocket(runtimeDir string) string { return filepath.Join(runtimeDir, "http.sock") }

// XDSSocket is the path of the socket for Envoys in a runtime directory.
func XDSSocket(dir string) string { return filepath.Join(dir, "xds.sock") }

// WorkloadSocket is the path of the socket for applications, and for Envoys that others configure, in a
// runtime directory.
func WorkloadSocket(dir string) string { return filepath.Join(dir, "workload.sock") }

// checkSocketPath returns an error if path is too long for a Unix socket.
func checkSocketPath(path string) error {
	if len(path) > unixsocket.MaxPath {
		return fmt.Errorf("%s is too long for a Unix socket: %d bytes, at most %d: choose a shorter --runtime-dir", path, len(path), unixsocket.MaxPath)
	}
	return nil
}

// MakeDir creates the runtime directory, or takes the one there is. It returns the error of CheckDir:
// whoever can replace the sockets can pose as the control plane.
func MakeDir(dir string) error {
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o755 // Envoys of other users connect to xds.sock in it, each with a token, and applications to workload.sock
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("runtime directory: %w", WithRemedy(err, "--runtime-dir"))
	}
	if err := os.Mkdir(dir, mode); err == nil {
		if err := os.Chmod(dir, mode); err != nil { // whatever the umask
			return fmt.Errorf("runtime directory: %w", WithRemedy(err, "--runtime-dir"))
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("runtime directory: %w", WithRemedy(err, "--runtime-dir"))
	}
	if err := CheckDir(dir); err != nil {
		return fmt.Errorf("runtime %w, or choose another with --runtime-dir", err)
	}
	return nil
}

// LetThrough lets everybody reach the sockets in a runtime directory of this user, which have modes
// of their own. Nobody else may list the directory.
func LetThrough(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("runtime directory: %w", err)
	}
	if mode := info.Mode().Perm(); mode|0o011 != mode {
		if err := os.Chmod(dir, mode|0o011); err != nil {
			return fmt.Errorf("runtime directory: %w", err)
		}
	}
	return nil
}

// Listen listens on a Unix socket at path with the given mode and, if gid is not -1, group. A
// socket that somebody still answers on is left alone; one that was left over is replaced.
func Listen(path string, mode fs.FileMode, gid int) (net.Listener, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%s is in the way and is no socket: remove it", path)
		}
		// Only a refusal says that nobody listens: one who is too busy to answer is still there.
		c, err := (&net.Dialer{Timeout: time.Second}).Dial("unix", path)
		if err == nil {
			_ = c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("another sallyport serves on %s: stop it, or choose another --runtime-dir", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("socket that was left over: %w", err)
		}
	}
	// Made under another name and renamed: nobody connects before mode and group are right.
	tmp := path + ".new"
	if err := checkSocketPath(tmp); err != nil {
		return nil, err
	}
	_ = os.Remove(tmp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, mode)
	if err == nil && gid != -1 {
		err = os.Chown(tmp, -1, gid)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return &socket{l, path}, nil
}

// socket removes its file when it is closed.
type socket struct {
	*net.UnixListener
	path string
}

// Close closes the listener and removes the socket's file.
func (s *socket) Close() error {
	_ = os.Remove(s.path) // before the close: after it, a successor's socket could already be there
	return s.UnixListener.Close()
}
