package revocation_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/revocation"
)

// directory makes a catalog directory with some files.
func directory(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	texts["web.hcl"] = "# nothing\n"
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func adding(serial string) revocation.Decide {
	return func([]intention.Revocation) (revocation.Edit, error) {
		return revocation.Edit{Add: []intention.Revocation{{Serial: serial}}}, nil
	}
}

func dropping(serial string) revocation.Decide {
	return func([]intention.Revocation) (revocation.Edit, error) {
		return revocation.Edit{Drop: func(r intention.Revocation) bool { return r.Serial == serial }}, nil
	}
}

// TestWriteTakesTurns: who writes at one time as others loses nothing of theirs.
func TestWriteTakesTurns(t *testing.T) {
	t.Parallel()
	dir := directory(t, map[string]string{})
	var all sync.WaitGroup
	const writers = 16
	for i := range writers {
		all.Go(func() {
			if err := revocation.Write(dir, adding(fmt.Sprintf("1%02x", i))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got, err := files.ReadRevoked(dir)
	if err != nil || len(got) != writers {
		t.Errorf("%v: %d of %d are there", err, len(got), writers)
	}
}

// TestWriteKeepsTheFile: its mode, the link that leads to it, its name, and what stands in others.
func TestWriteKeepsTheFile(t *testing.T) {
	t.Parallel()
	dir := directory(t, map[string]string{"revoked.json": `{"revoked": [{"serial": "a1"}]}`})
	real := filepath.Join(t.TempDir(), "elsewhere.yml")
	if err := os.WriteFile(real, []byte("revoked:\n- serial: \"b2\"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "revoked.yml")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := revocation.Write(dir, adding("c3")); err != nil {
		t.Fatal(err)
	}
	if err := revocation.Write(dir, dropping("b2")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(real)
	if err != nil || string(text) != "revoked:\n- serial: c3\n" {
		t.Errorf("%v: %s", err, text)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info, err)
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(dir, files.RevokedFile)); err == nil {
		t.Error("there is a second file")
	}
	if err := revocation.Write(dir, dropping("a1")); err == nil || !strings.Contains(err.Error(), "revoked.json:1") {
		t.Errorf("out of JSON: %v", err)
	}
}

// TestWriteRefuses: nothing is written if the list cannot be read, or the one who asks does not want it.
func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	broken := directory(t, map[string]string{"revoked.yaml": "revoked:\n- serial: 1x\n"})
	if err := revocation.Write(broken, adding("1")); err == nil || !strings.Contains(err.Error(), "revoked.yaml:2") {
		t.Errorf("a mistake: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(broken, "revoked.yaml")); err != nil || string(text) != "revoked:\n- serial: 1x\n" {
		t.Errorf("%v: the file is %s", err, text)
	}
	why := errors.New("not this one")
	dir := directory(t, map[string]string{})
	if err := revocation.Write(dir, func([]intention.Revocation) (revocation.Edit, error) { return revocation.Edit{}, why }); err != why { //nolint:errorlint // it itself
		t.Errorf("%v", err)
	}
	if err := revocation.Write(filepath.Join(dir, "none"), adding("1")); err == nil {
		t.Error("there is no such directory")
	}
}

// TestEditIsInForce: what is written is in force when Edit returns, and a change of lines alone is no change.
func TestEditIsInForce(t *testing.T) {
	t.Parallel()
	dir := directory(t, map[string]string{"revoked.yaml": "revoked:\n- serial: \"a1\"\n  reason: \"one\"\n- serial: \"b2\"\n"})
	var log strings.Builder
	r, p, publish := openLogged(t, filepath.Join(t.TempDir(), "revoked"), &log)
	d := &revocation.Directory{Path: dir, Registry: r}
	if err := d.Read(); err != nil {
		t.Fatal(err)
	}
	publish(catalogContents())
	if err := d.Edit(adding("c3")); err != nil || strings.Join(p.serials(), " ") != "a1 b2 c3" {
		t.Errorf("%v: %v", err, p.serials())
	}
	log.Reset()
	if err := d.Edit(dropping("a1")); err != nil || strings.Join(p.serials(), " ") != "b2 c3" {
		t.Errorf("%v: %v", err, p.serials())
	}
	if strings.Count(log.String(), "audit=revocation") != 1 || !strings.Contains(log.String(), "revoked no more") {
		t.Errorf("the log has\n%s", log.String())
	}
}
