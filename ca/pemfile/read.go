package pemfile

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/ca"
)

// maxFile bounds a file in bytes.
const maxFile = 1 << 20

// Modes of files: public ones others may read, private ones they may not.
const (
	public  fs.FileMode = 0o755
	private fs.FileMode = 0o700
)

// mark is what a file's change shows in.
type mark struct {
	modified time.Time
	size     int64
	inode    uint64
}

// marks are those of the files that a state is made of.
func (c *CA) marks() (m [3]mark) {
	for i, name := range []string{c.cfg.Roots, c.cfg.Chain, c.cfg.Key} {
		if info, err := os.Stat(name); err == nil {
			m[i] = mark{modified: info.ModTime(), size: info.Size()}
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				m[i].inode = stat.Ino
			}
		}
	}
	return m
}

// readFile reads a file that other users cannot write to, nor read if it is private. A symbolic link is followed, as those of Kubernetes are.
func readFile(name string, most fs.FileMode) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for its writer
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: is no file of %d bytes or less", name, maxFile)
	}
	if err := checkAccess(name, info, most); err != nil {
		return nil, err
	}
	if err := checkPlace(name); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// checkPlace refuses a directory in which other users can put something in the place of a file.
func checkPlace(name string) error {
	dir, err := os.Stat(filepath.Dir(name))
	if err != nil {
		return err
	}
	if err := checkAccess(filepath.Dir(name), dir, 0o755); err != nil && dir.Mode()&fs.ModeSticky == 0 {
		return err
	}
	return nil
}

// checkAccess refuses what belongs to another user than root and this process's, or lets others at it.
func checkAccess(path string, info fs.FileInfo, most fs.FileMode) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch us := os.Geteuid(); {
	case ok && stat.Uid != 0 && int(stat.Uid) != us:
		return fmt.Errorf("%s: belongs to user %d, and sallyport runs as user %d: chown %d %s, if you trust what is in it", path, stat.Uid, us, us, path)
	case info.Mode().Perm()&^most == 0:
		return nil
	case most == private:
		return fmt.Errorf("%s: mode %04o lets others at the private key: chmod 0600 %s, and take the key for known if others could read it", path, info.Mode().Perm(), path)
	}
	return fmt.Errorf("%s: mode %04o lets others write to it: chmod go-w %s, if you trust what is in it", path, info.Mode().Perm(), path)
}

func readCertificates(name string) ([]*x509.Certificate, error) {
	text, err := readFile(name, public)
	if err != nil {
		return nil, err
	}
	certs, err := ca.ParseCertificates(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return certs, nil
}

// readKey reads a private key. Nothing of it is in an error.
func readKey(name string) (crypto.Signer, error) {
	text, err := readFile(name, private)
	if err != nil {
		return nil, err
	}
	wrong := func(why string) (crypto.Signer, error) { return nil, fmt.Errorf("%s: %s", name, why) }
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case strings.HasPrefix(block.Type, "ENCRYPTED") || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return wrong("the key is encrypted, and nobody is there to give the password: write it without one, readable by this user alone")
		case !strings.HasSuffix(block.Type, "PRIVATE KEY"): // "EC PARAMETERS", which openssl writes first
			continue
		}
		if key, err := parseKey(block.Bytes); err == nil {
			return key, nil
		}
		return wrong("the private key cannot be read: write it in PKCS #8: openssl pkcs8 -topk8 -nodes")
	}
	return wrong("no private key in PEM is in it")
}

func parseKey(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errors.New("of no known form")
}
