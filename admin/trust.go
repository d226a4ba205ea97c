package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Untrusted is a directory that others than those who are trusted could replace, or what is in it.
type Untrusted struct {
	// Dir is the directory, and Problem what is wrong with it: "belongs to uid 7, not to 0".
	Dir, Problem string
	// Remedy is how its owner mends it.
	Remedy string
}

// Error is all of it in a sentence.
func (u *Untrusted) Error() string { return "directory " + u.Dir + " " + u.Problem + ": " + u.Remedy }

// CheckDir returns an error if a directory, or what is in it, may be replaced by others than root,
// this process's user and those of owners: an *Untrusted for one that another user owns or may write
// to, that is a symbolic link, or that lies in such a one (in one like /tmp, whose sticky bit keeps
// users from each other's files, it may lie). It wraps fs.ErrNotExist if there is none.
func CheckDir(dir string, owners ...int) error {
	t := trust{append([]int{0, os.Geteuid()}, owners...)}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	mode, owner := info.Mode(), ownerOf(info)
	refuse := func(remedy, format string, args ...any) error {
		return &Untrusted{Dir: dir, Problem: fmt.Sprintf(format, args...), Remedy: remedy}
	}
	switch {
	case !mode.IsDir():
		return refuse("remove it", "is not a directory")
	case !t.trusts(owner.uid):
		return refuse("chown it", "belongs to uid %d, not to %d", owner.uid, os.Geteuid())
	case mode&fs.ModeSticky != 0 && mode.Perm()&0o022 != 0:
		return refuse("choose one of your own in it", "is for everybody's files (mode %04o)", mode.Perm()|0o1000)
	case mode.Perm()&0o022 != 0:
		return refuse("chmod go-w "+dir, "may be written to by others (mode %04o)", mode.Perm())
	}
	full, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	return t.checkParents(dir, full)
}

// trust are the users who may replace a directory.
type trust struct{ uids []int }

func (t trust) trusts(uid int) bool { return slices.Contains(t.uids, uid) }

// maxLinks is how many symbolic links a path may lead through.
const maxLinks = 40

// checkParents walks the full path of dir, through symbolic links, and returns an error for the first
// directory on it in which somebody else may put another one in the place of the next.
func (t trust) checkParents(dir, full string) error {
	refuse := func(format string, args ...any) error {
		return &Untrusted{Dir: dir, Problem: fmt.Sprintf(format, args...), Remedy: "take that from them"}
	}
	at, rest, links := "/", strings.Split(full, "/"), 0
	for {
		info, err := os.Lstat(at)
		if err != nil {
			return fmt.Errorf("directory: %w", err)
		}
		mode, owner := info.Mode(), ownerOf(info)
		last := len(rest) == 0
		switch shared := mode.Perm()&0o022 != 0; {
		case !t.trusts(owner.uid):
			return refuse("lies in %s, which belongs to uid %d, who can replace it", at, owner.uid)
		case mode.Type() == fs.ModeSymlink:
			if links++; links > maxLinks {
				return refuse("lies behind too many symbolic links")
			}
			to, err := os.Readlink(at)
			if err != nil {
				return fmt.Errorf("directory: %w", err)
			}
			rest = append(strings.Split(to, "/"), rest...)
			if at = filepath.Dir(at); filepath.IsAbs(to) {
				at = "/"
			}
			continue
		case last:
			return nil
		case shared && mode&fs.ModeSticky == 0 && !owner.alone(mode):
			return refuse("lies in %s, which others may write to (mode %04o), who can replace it", at, mode.Perm())
		}
		at, rest = filepath.Join(at, rest[0]), rest[1:]
	}
}

// owner is whose a file is.
type owner struct{ uid, gid int }

func ownerOf(info fs.FileInfo) owner {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return owner{-1, -1}
	}
	return owner{int(s.Uid), int(s.Gid)}
}

// alone reports whether nobody but the owner may write to a file: its group, at most, which is the
// owner's private one, as many systems make for each user.
func (o owner) alone(mode fs.FileMode) bool {
	if mode.Perm()&0o002 != 0 {
		return false
	}
	u, err := user.LookupId(strconv.Itoa(o.uid))
	if err != nil || u.Gid != strconv.Itoa(o.gid) {
		return false
	}
	g, err := user.LookupGroupId(u.Gid)
	return err == nil && g.Name == u.Username
}

// distrusted is the text of an error of CheckDir for who only asks, and is not to mend anything.
func distrusted(err error) string {
	if u, ok := errors.AsType[*Untrusted](err); ok {
		return "directory " + u.Dir + " " + u.Problem
	}
	return err.Error()
}
