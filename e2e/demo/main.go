// Command demo runs a mesh of three services on this machine and shows it working: the built sallyport as control plane, three Envoys as
// sidecars, an application behind one of them. `make demo` runs it; with DEMO_EXIT=1 it ends after its checks, and its exit
// status says whether they held.
package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

//go:embed catalog
var definitions embed.FS

// Where the applications dial their upstream, and where api's application listens; as in the catalog.
const (
	apiAddr    = "127.0.0.1:18080"
	webToAPI   = "http://127.0.0.1:18181/"
	batchToAPI = "http://127.0.0.1:18182/"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := demo(ctx)
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Println("\nThe demo has ended.")
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// demo runs the mesh until ctx ends or, with DEMO_EXIT, until everything was shown. It ends all that it started.
func demo(ctx context.Context) (err error) {
	sallyport, err := find("SALLYPORT_BIN", "bin/sallyport", "make build")
	if err != nil {
		return err
	}
	envoy, err := find("ENVOY", ".tools/envoy-1.40.0", "make tools")
	if err != nil {
		return err
	}
	state, err := openState()
	if err != nil {
		return err
	}
	if err := state.endLeftovers(); err != nil {
		return err
	}
	m, err := newMesh(sallyport, envoy, state)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(err != nil && !errors.Is(err, context.Canceled))) }()
	if err := m.start(ctx); err != nil {
		return err
	}
	if err := show(ctx, m); err != nil {
		return err
	}
	if os.Getenv("DEMO_EXIT") != "" {
		fmt.Println("\nAll of it held. (DEMO_EXIT is set: the mesh ends here.)")
		return nil
	}
	m.invite()
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
