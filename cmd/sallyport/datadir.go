package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sallyport/sallyport/admin"
	"golang.org/x/sys/unix"
)

// dataError says how to mend that the data directory cannot be written to, where that is what err is.
func dataError(err error) error {
	for _, cause := range []error{fs.ErrPermission, unix.ENOSPC, unix.EDQUOT, unix.EROFS} {
		if _, ofFile := errors.AsType[*fs.PathError](err); ofFile && errors.Is(err, cause) {
			return admin.WithRemedy(err, "--data")
		}
	}
	return err
}

// openData makes the data directory, or takes the one there is, and keeps a second control plane
// out of it until release is called or the process ends. What is in it decides who is let in, so
// nobody else may write to it.
func openData(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--data: %w", admin.WithRemedy(err, "--data"))
	}
	if err := admin.CheckDir(dir); err != nil {
		return nil, fmt.Errorf("data %w, or choose another with --data", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another sallyport uses it: stop that one, or choose another --data")
		}
		return nil, errors.Join(fmt.Errorf("data directory %s: %w", dir, err), d.Close())
	}
	return d.Close, nil
}
