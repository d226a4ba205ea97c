// Command demo runs a mesh of three services on this machine and shows it working: the built sallyport as control plane, three Envoys as
// sidecars, an application behind one of them. `make demo` runs it; with DEMO_EXIT=1 it ends after its checks, and its exit
// status says whether they held. With -consul, as `make demo-consul` runs it, the mesh is that of a Consul agent, which it starts and ends too.
// With -l7, as `make demo-l7` runs it, the mesh is another one: two versions of a service, between which requests are moved.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sallyport/sallyport/internal/meshtest"
)

//go:embed catalog catalog-l7
var definitions embed.FS

// Where the applications dial their upstream, and where api's application listens; as in the catalog.
const (
	apiAddr    = "127.0.0.1:18080"
	webToAPI   = "http://127.0.0.1:18181/"
	batchToAPI = "http://127.0.0.1:18182/"
)

// play is what a demo runs and shows.
type play struct {
	files string // the directory of its definitions
	state string // the file of its processes
	// answers are the addresses of the applications that answer, and what they say.
	answers [][2]string
	// instances are the ones with a sidecar, those that are asked first.
	instances []string
	asked     string // where web asks api
	show      func(context.Context, *mesh) error
	invite    func(*mesh)
}

var plain = play{
	files: "catalog", state: "processes.json", answers: [][2]string{{apiAddr, "hello from api\n"}}, instances: services[:], asked: webToAPI, show: show, invite: (*mesh).invite,
}

func main() {
	consul := flag.Bool("consul", false, "run a Consul agent, and the mesh beside it")
	l7 := flag.Bool("l7", false, "run two versions of a service, and move requests between them")
	flag.Parse()
	p := plain
	if *l7 {
		p = versions
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := demo(ctx, p, *consul)
	switch {
	case errors.Is(err, context.Canceled) && os.Getenv("DEMO_EXIT") == "":
		fmt.Println("\nThe demo has ended.")
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// demo runs the mesh until ctx ends or, with DEMO_EXIT, until everything was shown. It ends all that it started.
func demo(ctx context.Context, p play, consul bool) (err error) {
	sallyport, err := find("SALLYPORT_BIN", "bin/sallyport", "make build")
	if err != nil {
		return err
	}
	envoy, err := find("ENVOY", ".tools/envoy-1.40.0", "make tools")
	if err != nil {
		return err
	}
	var agent *agent
	if consul {
		binary, err := find("CONSUL", ".tools/consul-"+meshtest.ConsulVersion, "make tools")
		if err != nil {
			return err
		}
		agent = newAgent(binary)
	}
	state, err := openState(p.state)
	if err != nil {
		return err
	}
	if err := state.endLeftovers(); err != nil {
		return err
	}
	m, err := newMesh(sallyport, envoy, p, agent, state)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(err != nil && !errors.Is(err, context.Canceled))) }()
	if err := m.start(ctx); err != nil {
		return err
	}
	if err := p.show(ctx, m); err != nil {
		return err
	}
	if os.Getenv("DEMO_EXIT") != "" {
		fmt.Println("\nAll of it held. (DEMO_EXIT is set: the mesh ends here.)")
		return nil
	}
	p.invite(m)
	<-ctx.Done()
	return ctx.Err()
}

// find is the path of a program: what the environment says, else the one in the checkout that the demo runs in.
func find(variable, path, how string) (string, error) {
	if v := os.Getenv(variable); v != "" {
		path = v
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = exec.LookPath(path)
	}
	if err != nil {
		return "", fmt.Errorf("%w (run `%s` in the checkout, or name another with %s)", err, how, variable)
	}
	return path, nil
}
