package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// stopGrace is more than an Envoy needs to end: it does not drain first.
const stopGrace = 10 * time.Second

// supervisor runs one Envoy as a child that does not outlive it.
type supervisor struct {
	log            *slog.Logger
	path           string
	args           []string
	stdout, stderr io.Writer
	// grace is how long Envoy may take to end once it was told to, before it is killed.
	grace time.Duration
}

// run starts Envoy, passes signals on to it and returns its exit status when it has ended, as a
// shell would: 128 and the signal's number if a signal ended it. When ctx ends Envoy gets SIGTERM.
// SIGHUP is for daemons that read files again: it is not passed on, and a terminal that goes away
// does not end a sidecar.
func (s supervisor) run(ctx context.Context, signals <-chan os.Signal) (status int, err error) {
	cmd := exec.Command(s.path, s.args...) //nolint:gosec,noctx // running the Envoy that the user names is the purpose; the context ends it with SIGTERM below
	cmd.Stdout, cmd.Stderr = s.stdout, s.stderr
	cmd.SysProcAttr = dieWithParent()

	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// The kernel takes the thread that started a child for its parent: it has to live as long
		// as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return 0, fmt.Errorf("start %s: %w", s.path, err)
	}

	done := ctx.Done()
	var kill <-chan time.Time
	stop := func(sig os.Signal) {
		_ = cmd.Process.Signal(sig) // it fails only if Envoy has ended, which ended says
		if kill == nil {
			kill = time.After(s.grace)
		}
	}
	for {
		select {
		case err := <-ended:
			if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
				return 0, fmt.Errorf("%s: %w", s.path, err)
			}
			status := exitStatus(cmd.ProcessState)
			if status != 0 || kill == nil {
				s.log.Error("envoy has ended", "status", status)
			}
			return status, nil
		case sig := <-signals:
			switch sig {
			case syscall.SIGHUP:
			case syscall.SIGUSR1: // Envoy opens its access logs anew
				_ = cmd.Process.Signal(sig)
			default:
				stop(sig)
			}
		case <-done:
			done = nil
			stop(syscall.SIGTERM)
		case <-kill:
			s.log.Error("envoy does not end, killing it", "after", s.grace)
			_ = cmd.Process.Kill()
		}
	}
}

func exitStatus(p *os.ProcessState) int {
	if w, ok := p.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return p.ExitCode()
}
