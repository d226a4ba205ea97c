//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// probeVariable, if set, makes the test binary a prober: a process of another user that TestAnotherUser starts.
const probeVariable = "E2E_PROBE"

// probe is what a prober tries.
type probe struct {
	Runtime, Sallyport string
	Service            string // whose token to ask for
	Paths              []string
	// Own, if not nil, is all that is tried.
	Own *subscription
}

// prober tries to get at what is not its own, and prints what it got.
func prober(task string) error {
	var p probe
	if err := json.Unmarshal([]byte(task), &p); err != nil {
		return err
	}
	out := probed{UID: os.Geteuid()}
	if p.Own != nil {
		f, err := subscribe(filepath.Join(p.Runtime, "xds.sock"), *p.Own, time.Second)
		if err != nil {
			return err
		}
		f.Err = nil
		out.Fetched = []fetched{f}
		b, err := json.Marshal(out)
		fmt.Println(string(b))
		return err
	}
	for _, path := range p.Paths {
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			out.Opened = append(out.Opened, path)
		} else if f, err := os.Open(path); err == nil {
			f.Close()
			out.Opened = append(out.Opened, path)
		}
	}
	for _, token := range []string{"", "hello", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ3ZWItc2lkZWNhci1wcm94eSIsImF1ZCI6InNhbGx5cG9ydC14ZHMifQ."} {
		for _, names := range [][]string{{"leaf/web"}, {"*"}, nil} {
			f, err := subscribe(filepath.Join(p.Runtime, "xds.sock"), subscription{token, "web-sidecar-proxy", secretType, names}, time.Second)
			if err != nil {
				return err
			}
			f.Err = nil // an error does not travel as JSON, and there may be one
			out.Fetched = append(out.Fetched, f)
		}
	}
	dir, err := os.MkdirTemp("", "probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	said, err := exec.Command(p.Sallyport, "bootstrap", "--sidecar-for", p.Service, "--runtime-dir", p.Runtime, "-o", filepath.Join(dir, "boot")).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		out.Exit = exit.ExitCode()
	} else if err != nil {
		return err
	}
	out.Said = string(said)
	b, err := json.Marshal(out)
	fmt.Println(string(b))
	return err
}
