package files

import (
	"io/fs"
	"log/slog"
	"os"

	"github.com/fsnotify/fsnotify"
)

// watch is told by the kernel of changes in the directory itself. It is a convenience: what it
// misses, polling finds. That is all that happens elsewhere: to symlinks on the way to the
// directory, and to what its own symlinks lead to.
type watch struct {
	dir      string
	logger   *slog.Logger
	notifier *fsnotify.Watcher // nil: none can be had
	events   chan fsnotify.Event
	errors   chan error
	watched  fs.FileInfo // of the directory when its watch was set
}

func newWatch(dir string, logger *slog.Logger) *watch {
	w := &watch{dir: dir, logger: logger}
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

// follow watches the directory that has the name now.
func (w *watch) follow() {
	if w.notifier == nil {
		return
	}
	info, err := os.Stat(w.dir)
	if err != nil {
		return
	}
	if len(w.notifier.WatchList()) > 0 { // else it is gone, though another one may have its number
		if os.SameFile(info, w.watched) {
			return
		}
		_ = w.notifier.Remove(w.dir) // gone already, at worst
	}
	if err := w.notifier.Add(w.dir); err != nil {
		w.logger.Debug("directory not watched, changes are found by polling", "file", w.dir, "err", err)
		return
	}
	w.watched = info
}
