package files

import (
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// maxLinks bounds the symlinks that are followed for one path, as the kernel does.
const maxLinks = 40

// everything stands for all names of a directory.
const everything = "*"

// watch is told by the kernel of changes in the directory and along the symlinks that lead to it and to its files. It is a
// convenience: what it misses, polling finds.
type watch struct {
	dir      string
	logger   *slog.Logger
	notifier *fsnotify.Watcher // nil: none can be had
	events   chan fsnotify.Event
	errors   chan error

	names map[string]map[string]bool // by directory, the names that matter
	infos map[string]fs.FileInfo     // of the directories when their watch was set
}

func newWatch(dir string, logger *slog.Logger) *watch {
	w := &watch{dir: dir, logger: logger, infos: map[string]fs.FileInfo{}}
	n, err := fsnotify.NewWatcher()
	if err != nil {
		logger.Warn("no file notification, changes are found by polling", "err", err)
		return w
	}
	w.notifier, w.events, w.errors = n, n.Events, n.Errors
	return w
}

// close ends the notifications and waits for the goroutine behind them.
func (w *watch) close() {
	if w.notifier == nil {
		return
	}
	if err := w.notifier.Close(); err != nil {
		w.logger.Warn("file notification", "err", err)
	}
}

// follow watches the directory, and what leads to it and to the files.
func (w *watch) follow(files []listed) {
	if w.notifier == nil {
		return
	}
	w.names = map[string]map[string]bool{}
	real := w.trace(w.dir)
	w.add(real, everything)
	for _, f := range files {
		path := filepath.Join(real, f.name)
		if l, err := os.Lstat(path); err == nil && l.Mode()&fs.ModeSymlink != 0 {
			w.trace(path)
		}
	}
	set := map[string]bool{}
	for _, dir := range w.notifier.WatchList() {
		set[dir] = true
	}
	for dir := range w.names {
		info, err := os.Stat(dir)
		if err != nil {
			continue
		}
		if set[dir] && w.infos[dir] != nil && os.SameFile(info, w.infos[dir]) {
			continue
		}
		if set[dir] { // the name is another directory's now
			_ = w.notifier.Remove(dir) // gone already, at worst
		}
		if err := w.notifier.Add(dir); err != nil {
			w.logger.Debug("directory not watched, changes are found by polling", "file", dir, "err", err)
			continue
		}
		w.infos[dir] = info
	}
	for dir := range set {
		if w.names[dir] == nil {
			_ = w.notifier.Remove(dir) // gone already, at worst
		}
	}
	maps.DeleteFunc(w.infos, func(dir string, _ fs.FileInfo) bool { return w.names[dir] == nil })
}

func (w *watch) add(dir, name string) {
	if w.names[dir] == nil {
		w.names[dir] = map[string]bool{}
	}
	w.names[dir][name] = true
}

// trace marks every symlink on the way to path, and what stands at its end, as names that matter. It returns the path
// without symlinks, as far as it exists.
func (w *watch) trace(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	rest := strings.Split(strings.TrimPrefix(abs, "/"), "/")
	at := "/"
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil {
			w.add(at, name) // somebody may make it
			return filepath.Join(append([]string{next}, rest...)...)
		}
		if info.Mode()&fs.ModeSymlink != 0 && links < maxLinks {
			links++
			w.add(at, name)
			target, err := os.Readlink(next)
			if err != nil {
				return next
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		}
		if len(rest) == 0 {
			w.add(at, name)
		}
		at = next
	}
	return at
}

// concerns reports whether an event may have changed what the directory holds.
func (w *watch) concerns(e fsnotify.Event) bool {
	if w.names[e.Name] != nil { // a watched directory itself
		return true
	}
	names := w.names[filepath.Dir(e.Name)]
	return names[filepath.Base(e.Name)] || names[everything]
}
