package revocation

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/atomicfile"
)

// ErrReadOnly is that the process may not write where the revocations are.
var ErrReadOnly = errors.New("may not be written to by this process")

// Edit is a change of what is revoked.
type Edit struct {
	// Drop reports what is revoked no more. Nil: all that is stays so.
	Drop func(intention.Revocation) bool
	// Add is what is revoked besides.
	Add []intention.Revocation
}

// Decide says how what is revoked is to change, given all that is; its error is why it is not. It may be called more than once.
type Decide func(all []intention.Revocation) (Edit, error)

// Write changes the files of revocations in a catalog directory as decide says, and leaves in them what people wrote (files.EditRevoked).
// It takes turns with others that write so. The error is that of decide, or what stands in the way: a mistake in a file, something to
// drop in a file that is not YAML, ErrReadOnly.
func Write(dir string, decide Decide) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	turn(d)
	all, err := files.ReadRevoked(dir)
	if err != nil {
		return fmt.Errorf("%w: mend that first", err)
	}
	edit, err := decide(all)
	if err != nil {
		return err
	}
	drop := map[string]bool{} // the names of files
	for _, r := range all {
		if edit.Drop == nil || !edit.Drop(r) {
			continue
		}
		name, _, _ := strings.Cut(r.Origin, ":")
		if !isYAML(name) {
			return fmt.Errorf("%s is revoked at %s, and commands change %s alone: take it out there by hand", r.String(), r.Origin, files.RevokedFile)
		}
		drop[name] = true
	}
	add := ""
	if len(edit.Add) > 0 {
		add = files.RevokedFile
		if !exists(dir, add) && exists(dir, "revoked.yml") {
			add = "revoked.yml"
		}
	}
	// What is added comes first: a crash between the two leaves too much revoked, not too little.
	for _, name := range []string{add, files.RevokedFile, "revoked.yml"} {
		if name == "" || name != add && !drop[name] {
			continue
		}
		var more []intention.Revocation
		if name == add {
			more, add = edit.Add, ""
		}
		delete(drop, name)
		if err := rewrite(filepath.Join(dir, name), name, edit.Drop, more); err != nil {
			return err
		}
	}
	return nil
}

// turn waits until no other process writes in a directory, and keeps others off until that is closed. Whoever may read it can hold it, so
// who holds it for longer than any of ours is not waited for.
func turn(dir *os.File) {
	for began := time.Now(); time.Since(began) < longestTurn; {
		if syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

const longestTurn = time.Second

func isYAML(name string) bool { return name == files.RevokedFile || name == "revoked.yml" }

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// rewrite changes one file.
func rewrite(path, name string, drop func(intention.Revocation) bool, add []intention.Revocation) error {
	src, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text, err := files.EditRevoked(name, src, drop, add)
	if err != nil {
		return err
	}
	err = atomicfile.Rewrite(path, text, 0o644)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%s %w: %w", filepath.Dir(path), ErrReadOnly, err)
	}
	return err
}
