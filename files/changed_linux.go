package files

import (
	"io/fs"
	"syscall"
	"time"
)

// statusChanged is when a file, or what is known of it, was changed last, which nobody can set: its
// ctime. Zero: the file system does not say.
func statusChanged(info fs.FileInfo) time.Time {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(s.Ctim.Unix())
	}
	return time.Time{}
}
