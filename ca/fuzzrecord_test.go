package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"
)

// FuzzRecord puts a record that was changed into the directory of a good CA: one of some phase, from which something is cut and into which
// something is put. Open never panics and changes no file that it does not understand; with a record of which the parts fit together the CA
// goes on, and neither does it panic then.
func FuzzRecord(f *testing.F) {
	vault := newFakeUpstream(f)
	roots, _ := vault.roots.Load()
	cfg := Config{Dir: caDir(f), TrustDomain: trustDomain(f), Gate: &fakeGate{}, Upstreams: map[string]UpstreamConfig{"vault": {Upstream: vault}}}
	c := mustOpen(f, cfg)
	c.know("vault", roots)
	var texts [][]byte
	seed := func() {
		text, err := json.Marshal(c.authority.record())
		if err != nil {
			f.Fatal(err)
		}
		for word, other := range map[string]string{
			`"active":`: `"other":`, `"state":"active"`: `"state":"old"`, `"phase":"prepare"`: `"phase":"activate"`, `"to":"vault"`: `"to":"builtin"`,
			`"provider":"builtin"`: `"provider":"vault"`, `"next":[`: `"next":[],"x":[`, `"cross":`: `"cross":null,"x":`, `"started":"`: `"started":"x`,
		} {
			if at := bytes.Index(text, []byte(word)); at >= 0 {
				f.Add(uint8(len(texts)), uint16(at), uint16(len(word)), []byte(other))
			}
		}
		f.Add(uint8(len(texts)), uint16(0), uint16(0), []byte(nil))
		texts = append(texts, text)
	}
	now := time.Now()
	for _, to := range []string{Builtin, "vault"} {
		seed()
		if err := c.Rotate(RotateOptions{To: to, Override: []string{"proxy a"}, Reason: "test"}); err != nil {
			f.Fatal(err)
		}
		for last := Phase("?"); phaseOf(c) != Idle; now = now.Add(11 * time.Second) {
			if phaseOf(c) != last {
				last = phaseOf(c)
				seed()
			}
			c.step(context.Background(), now)
		}
	}
	seed()
	mustClose(f, c)
	content := map[string][]byte{}
	for _, name := range filesOf(f, cfg.Dir) {
		content[name] = readFile(f, cfg.Dir, name)
	}
	f.Fuzz(func(t *testing.T, which uint8, at, cut uint16, insert []byte) {
		text := texts[int(which)%len(texts)]
		from := int(at) % (len(text) + 1)
		text = slices.Concat(text[:from], insert, text[min(from+int(cut), len(text)):])
		data := fmt.Appendf(nil, "%sstate%s%d\n%s\n%s", headWords, formatWords, format, text, tail)
		var r record
		if json.Unmarshal(text, &r) == nil && r.check() == nil {
			var err error
			if data, err = r.encode(); err != nil {
				t.Fatal(err)
			}
		}
		cfg := cfg
		cfg.Dir = t.TempDir()
		for name, b := range content {
			writeFile(t, b, cfg.Dir, name)
		}
		writeFile(t, data, cfg.Dir, recordFile)
		c, err := Open(cfg)
		if err != nil {
			if got := readFile(t, cfg.Dir, recordFile); !bytes.Equal(got, data) {
				t.Errorf("Open() failed (%v) and changed the record", err)
			}
			return
		}
		defer mustClose(t, c)
		for _, root := range c.authority.record().certificates(func(a anchor) bool { return a.Provider == Builtin }) {
			if err := root.CheckSignatureFrom(root); err != nil {
				t.Errorf("a built-in root that is none: %v", err)
			}
		}
		roots, _ := vault.roots.Load()
		c.know("vault", append([]*x509.Certificate{}, roots...))
		for i := range 5 {
			c.step(context.Background(), time.Now().Add(time.Duration(i)*11*time.Second))
			_ = c.Status()
		}
		_ = c.Rotate(RotateOptions{}) // which may be refused
		_ = c.Cancel()                // the same
	})
}
