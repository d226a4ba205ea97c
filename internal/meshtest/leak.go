package meshtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var secretPatterns = []struct {
	what string
	re   *regexp.Regexp
}{
	{"a private key", regexp.MustCompile(`PRIVATE KEY`)},
	{"a private key (base64 of PEM)", regexp.MustCompile(`LS0tLS1CRUdJTiB(QUklWQVRFIEtFWS|FQyBQUklWQVRFIEtFWS)`)},
	{"a token", regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}`)},
}

// leak is an error if text holds a private key or a token. It does not repeat what it found.
func leak(text []byte) error {
	for _, p := range secretPatterns {
		if at := p.re.FindIndex(text); at != nil {
			return fmt.Errorf("holds %s at byte %d", p.what, at[0])
		}
	}
	return nil
}

// leaks searches what the mesh's processes wrote, logs and files in the runtime directory, for
// private keys and tokens. A token file is the one place where a token may be, and nobody but its
// owner may read it.
func (m *Mesh) leaks() {
	check := func(path string, mode fs.FileMode) {
		b, err := os.ReadFile(path)
		if err != nil {
			m.t.Errorf("searching for secrets: %v", err)
			return
		}
		err = leak(b)
		if err != nil && strings.HasPrefix(filepath.Base(path), "token") && mode.Perm() == 0o600 {
			return
		}
		if err != nil {
			m.t.Errorf("%s (mode %04o) %v", path, mode.Perm(), err)
		}
	}
	logs, err := filepath.Glob(filepath.Join(m.dir, "*.log"))
	if err != nil {
		m.t.Error(err)
	}
	for _, l := range logs {
		check(l, 0)
	}
	err = filepath.WalkDir(m.Runtime, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		check(path, info.Mode())
		return nil
	})
	if err != nil {
		m.t.Errorf("searching for secrets: %v", err)
	}
}
