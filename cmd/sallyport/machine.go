package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/sds"
	"golang.org/x/sys/unix"
)

// What a control plane needs of its disk: its files are some megabytes even for a large mesh, and
// are written anew before the old ones go.
const (
	minFreeBytes = 1 << 20
	minFreeFiles = 16
)

// checkDisk returns an error if the file system of a directory cannot be written to, or soon not
// any more.
func checkDisk(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("data directory %s: %w: bring it back: what is not recorded there is lost with a restart", dir, err)
	}
	switch free := uint64(fs.Bavail) * uint64(fs.Bsize); { //nolint:gosec,unconvert // their types differ by system; neither is negative
	case uint64(fs.Flags)&readOnly != 0: //nolint:gosec // as above
		return fmt.Errorf("the file system of the data directory %s is mounted read-only: mount it writable", dir)
	case free < minFreeBytes:
		return fmt.Errorf("the disk of the data directory %s is full (%d KiB left): make room: revocations hold, but who is newly let in waits, and CA and ports cannot be recorded", dir, free>>10)
	case fs.Files > 0 && uint64(fs.Ffree) < minFreeFiles: //nolint:unconvert // as above
		return fmt.Errorf("the disk of the data directory %s has no room for more files (%d left): remove some", dir, fs.Ffree)
	}
	return nil
}

// maxSkew is how wrong a clock may be. Leafs are valid from a minute before they are made.
const maxSkew = 30 * time.Second

// clockFault says why the clock of this machine seems to be wrong; empty: nothing speaks for it.
// ahead is how far another clock is before it, data the directory that was written by it.
func clockFault(data string, ahead time.Duration, roots []admin.Root, now time.Time) string {
	switch {
	case ahead > maxSkew:
		return fmt.Sprintf("it is %s behind the Consul agent's: let both follow the same time (chronyc tracking, timedatectl)", ahead.Round(time.Second))
	case ahead < -maxSkew:
		return fmt.Sprintf("it is %s ahead of the Consul agent's: let both follow the same time (chronyc tracking, timedatectl)", (-ahead).Round(time.Second))
	}
	for _, r := range roots {
		if early := r.NotBefore.Sub(now); early > 0 && r.Active {
			return fmt.Sprintf("the CA's certificate begins in %s: the clock was set back, or the CA was made with a wrong one", early.Round(time.Second))
		}
	}
	entries, _ := os.ReadDir(data) // that it cannot be read is said elsewhere
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().Sub(now) > maxSkew {
			return fmt.Sprintf("%s was written %s in the future: the clock was set back: correct it (chronyc tracking, timedatectl), or `touch` the file if it is right now",
				filepath.Join(data, e.Name()), info.ModTime().Sub(now).Round(time.Second))
		}
	}
	return ""
}

func describeRoots(r *sds.Roots) (out []admin.Root) {
	active, ok := r.Active()
	for _, root := range r.List() {
		c := root.Certificate
		out = append(out, admin.Root{Serial: fmt.Sprintf("%x", c.SerialNumber), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Active: ok && root.ID == active.ID})
	}
	return out
}
