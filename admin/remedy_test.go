package admin_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/admin"
)

// TestWithRemedy: an error of a directory says what to do, and stays the error that it was.
func TestWithRemedy(t *testing.T) {
	t.Parallel()
	for cause, want := range map[error]string{
		syscall.EACCES: "write there, or choose another directory with -o", syscall.ENOTDIR: "something else is in its place", syscall.EEXIST: "something else is in its place",
		syscall.ENOENT: "make what it lies in", syscall.ENOSPC: "make room there", syscall.EROFS: "make it writable", syscall.EIO: ": choose another directory with -o",
	} {
		err := admin.WithRemedy(fmt.Errorf("x: %w", &fs.PathError{Op: "mkdir", Path: "/y", Err: cause}), "-o")
		if !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "x: mkdir /y: ") || !strings.Contains(err.Error(), want) || !strings.HasSuffix(err.Error(), "-o") {
			t.Errorf("of %v: %v, want %q", cause, err, want)
		}
	}
	if err := admin.WithRemedy(nil, "-o"); err != nil {
		t.Error(err)
	}
}
