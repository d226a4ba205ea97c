package files_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
)

func portsOf(c catalog.Contents) map[string]uint16 {
	m := map[string]uint16{}
	for _, p := range c.Proxies {
		m[p.Service.Service] = p.Inbound.Port
	}
	return m
}

func wantPorts(t *testing.T, when string, c catalog.Contents, want map[string]uint16) {
	t.Helper()
	if diff := cmp.Diff(want, portsOf(c)); diff != "" {
		t.Errorf("ports %s (-want +got):\n%s", when, diff)
	}
}

// TestPortsStay holds that a port that was chosen once stays: across reloads, while its service is away, and across restarts.
func TestPortsStay(t *testing.T) {
	t.Parallel()
	for _, remember := range []bool{true, false} {
		t.Run(fmt.Sprintf("file=%v", remember), func(t *testing.T) {
			t.Parallel()
			dir := write(t, map[string]string{"m.hcl": definition("m")})
			config := files.Config{Dir: dir}
			if remember {
				config.PortsFile = filepath.Join(t.TempDir(), "ports.json")
			}
			r := run(t, config)
			wantPorts(t, "at first", r.services("m"), map[string]uint16{"m": 21000})
			writeFile(t, filepath.Join(dir, "a.hcl"), definition("a"))
			wantPorts(t, "with one before it", r.services("a", "m"), map[string]uint16{"m": 21000, "a": 21001})
			remove(t, filepath.Join(dir, "m.hcl"))
			r.services("a")
			writeFile(t, filepath.Join(dir, "b.hcl"), definition("b"))
			wantPorts(t, "with one away", r.services("a", "b"), map[string]uint16{"a": 21001, "b": 21002})
			writeFile(t, filepath.Join(dir, "m.hcl"), definition("m"))
			wantPorts(t, "with all back", r.services("a", "b", "m"), map[string]uint16{"a": 21001, "b": 21002, "m": 21000})
			writeFile(t, filepath.Join(dir, "c.hcl"), strings.Replace(definition("c"), "sidecar_service {", "sidecar_service {\nport = 21000", 1))
			all := map[string]uint16{"a": 21001, "b": 21002, "c": 21000, "m": 21003}
			wantPorts(t, "with one that is taken by name", r.services("a", "b", "c", "m"), all)
			if !remember {
				return
			}
			written := func() bool { // beside what is published
				text, err := os.ReadFile(config.PortsFile)
				return err == nil && strings.Contains(string(text), `"m-sidecar-proxy": 21003`)
			}
			for end := time.Now().Add(patience); !written() && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
			info, err := os.Stat(config.PortsFile)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("ports file: %v, %v, want mode 0600", info, err)
			}
			again := run(t, config)
			wantPorts(t, "after a restart", again.services("a", "b", "c", "m"), all)
			wantPorts(t, "by Load", load(t, config), all)
		})
	}
}

// TestPortsOfExposedPaths holds that a sidecar is not given a port on which a path is exposed, or one that the application has for it.
func TestPortsOfExposedPaths(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"a.hcl": inExposed("path = \"/a\"\nlistener_port = 21000\nlocal_path_port = 21001")})
	wantPorts(t, "beside an exposed path", load(t, files.Config{Dir: dir}), map[string]uint16{"web": 21002})
}

// TestPortsOfHosts holds that machines do not share one range, and that a full range is a problem at the sidecar's line.
func TestPortsOfHosts(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 256 {
		fmt.Fprintf(&b, "services {\nname = \"s%03d\"\nport = 1\nconnect { sidecar_service {} }\n}\n", i)
	}
	b.WriteString("services {\nname = \"far\"\nport = 1\naddress = \"10.0.0.1\"\nconnect { sidecar_service {} }\n}\n")
	dir := write(t, map[string]string{"a.hcl": b.String()})
	ports := portsOf(load(t, files.Config{Dir: dir}))
	if ports["s255"] != 21255 || ports["far"] != 21000 {
		t.Errorf("s255 has %d, want 21255; far has %d, want 21000", ports["s255"], ports["far"])
	}
	writeFile(t, filepath.Join(dir, "b.hcl"), "services {\nname = \"zzz\"\nport = 1\nconnect {\nsidecar_service {}\n}\n}\n")
	_, err := files.Load(files.Config{Dir: dir})
	if want := "b.hcl:5: no port is left for zzz-sidecar-proxy between 21000 and 21255 on loopback: give it a port"; err == nil || err.Error() != want {
		t.Errorf("Load: %v, want %s", err, want)
	}
}

// TestPortsForgotten holds that those who are away lose their ports when no other is left.
func TestPortsForgotten(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ports.json")
	var remembered []string
	for i := range 256 {
		remembered = append(remembered, fmt.Sprintf("%q: %d", fmt.Sprintf("gone-%d", i), 21000+i))
	}
	writeFile(t, file, `{"version": 1, "ports": {`+strings.Join(remembered, ",")+`}}`)
	c := load(t, files.Config{Dir: write(t, map[string]string{"a.hcl": definition("web")}), PortsFile: file})
	wantPorts(t, "when all were taken", c, map[string]uint16{"web": 21000})
}

func TestPortsFileRefused(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"a.hcl": definition("web")})
	for text, want := range map[string]string{
		"{":                            "remove it to have the sidecars' ports chosen again",
		`{"version": 2, "ports": {}}`:  "version 2, and 1 is known",
		`{"version": 1, "ports": [1]}`: "remove it to have the sidecars' ports chosen again",
	} {
		file := filepath.Join(t.TempDir(), "ports.json")
		writeFile(t, file, text)
		for name, err := range map[string]error{
			"New":  second(files.New(files.Config{Dir: dir, TrustDomain: trustDomain, PortsFile: file})),
			"Load": second(files.Load(files.Config{Dir: dir, PortsFile: file})),
		} {
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
				t.Errorf("%s with %s: %v, want %q and the file's name", name, text, err, want)
			}
		}
	}
	inside := filepath.Join(dir, "ports.json")
	if err := second(files.New(files.Config{Dir: dir, TrustDomain: trustDomain, PortsFile: inside})); err == nil || !strings.Contains(err.Error(), "is in the catalog directory") {
		t.Errorf("New with a ports file in the directory: %v", err)
	}
}

// TestPortsNotWritten holds that ports which cannot be remembered are used all the same, and that it is told.
func TestPortsNotWritten(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"a.hcl": definition("web")})
	r := run(t, files.Config{Dir: dir, PortsFile: filepath.Join(t.TempDir(), "none", "ports.json")})
	wantPorts(t, "without a file", r.services("web"), map[string]uint16{"web": 21000})
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // it is told after
		w := strings.Join(r.Status().Warnings, "\n")
		if strings.Contains(w, "sidecar ports are not remembered") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("warnings %q", w)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestConfigRefused holds that New names what is missing.
func TestConfigRefused(t *testing.T) {
	t.Parallel()
	for want, config := range map[string]files.Config{
		"catalog directory: none is given":     {TrustDomain: trustDomain},
		"catalog: no trust domain is given":    {Dir: "x"},
		`datacenter: "a/b": not a SPIFFE path`: {Dir: "x", TrustDomain: trustDomain, Datacenter: "a/b"},
	} {
		if err := second(files.New(config)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("New(%+v): %v, want %s", config, err, want)
		}
	}
}
