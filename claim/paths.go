package claim

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/internal/unixsocket"
)

// Paths says which paths of sockets registrations may name.
type Paths struct {
	// Allowed are the directories that sockets may be in, at any depth; none: nowhere.
	Allowed []string
	// Own are directories that no registration may name anything in: those of the control plane.
	Own []string
}

// resolved is p with full paths as the kernel sees them, and its own as they are spelled, too.
func (p Paths) resolved() (out Paths) {
	for _, path := range p.Allowed {
		out.Allowed = append(out.Allowed, resolve(full(path)))
	}
	for _, path := range p.Own {
		if path != "" {
			out.Own = append(out.Own, full(path), resolve(full(path)))
		}
	}
	return out
}

func full(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// resolve follows the symbolic links on the way to path, as far as they are there and may be looked
// at; what is not is left as it is.
func resolve(path string) string {
	rest := ""
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		if followed, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(followed, rest)
		}
		if dir == filepath.Dir(dir) {
			return filepath.Clean(path)
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}

// within reports whether path is one of the directories, or in one.
func within(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		rel, err := filepath.Rel(dir, path)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	})
}

// misplaced is that a path is not for registrations.
type misplaced struct {
	why string
	// strange says that it is nobody's, but in none of the allowed directories.
	strange bool
}

// realPath is where a's socket is. Who listens does not follow a link in the last place: it replaces it.
func realPath(a *Address) string {
	if a.Dialled {
		return resolve(a.Socket)
	}
	return filepath.Join(resolve(filepath.Dir(a.Socket)), filepath.Base(a.Socket))
}

// judge says why a's socket, of which it is known where it really is, cannot be there; nil: it can.
func (p Paths) judge(a *Address) *misplaced {
	path := a.Socket
	switch {
	case !filepath.IsAbs(path) || slices.Contains(strings.Split(path, "/"), ".."):
		return &misplaced{why: "is not a full path without .. in it"}
	case len(path) > unixsocket.MaxPath || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return &misplaced{why: "is no path that a socket can have"}
	}
	where := a.real
	info, err := os.Lstat(where)
	switch {
	case within(path, p.Own) || within(where, p.Own):
		return &misplaced{why: "is in a directory of the control plane's own"}
	case err == nil && a.Host == "" && info.Mode().Type() != fs.ModeSocket:
		return &misplaced{why: "is there and no socket"}
	case !within(where, p.Allowed):
		if where != path {
			return &misplaced{why: "is " + where + ", which is in none of the directories that --socket-dirs names", strange: true}
		}
		return &misplaced{why: "is in none of the directories that --socket-dirs names", strange: true}
	}
	return nil
}
