package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// WithRemedy adds to the error of making a directory, or of writing a file in it, how to mend it. flag
// names another directory. nil stays nil.
func WithRemedy(err error, flag string) error {
	if err == nil {
		return nil
	}
	another := "choose another directory with " + flag
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: let uid %d write there, or %s", err, os.Geteuid(), another)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: something else is in its place: move that, or %s", err, another)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: make what it lies in, or %s", err, another)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: make room there, or %s", err, another)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: make it writable, or %s", err, another)
	}
	return fmt.Errorf("%w: %s", err, another)
}
