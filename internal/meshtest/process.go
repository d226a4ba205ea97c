package meshtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process is a program that a test, the demo or the benchmark started, in a process group of its
// own, with its output in a file.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // of Wait; valid after done
}

// Launch starts cmd with its output appended to the file log. What it has started ends with it.
func Launch(name, log string, cmd *exec.Cmd) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		// Its children end with it. Now, not later: by then its ID may be another group's.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		close(p.done)
	}()
	return p, nil
}

// Start is Launch for a test. The process and its children are killed when the test ends, or its
// process, and the end of the log is printed if it failed.
func Start(t testing.TB, name, log string, cmd *exec.Cmd) *Process {
	t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	dieWithParent(cmd.SysProcAttr)
	p, err := Launch(name, log, cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("--- %s (%s), last lines:\n%s", name, log, p.Tail(40))
		}
	})
	return p
}

// PID is the process's ID, which is its group's too.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends s to the process alone.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends the process and whatever it started with SIGKILL, and waits for its end. To kill a dead
// one does nothing.
func (p *Process) Kill() {
	if !p.Ended() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-p.done
}

// Stop ends the process with sig, or after patience with SIGKILL, and waits for its end.
func (p *Process) Stop(sig syscall.Signal, patience time.Duration) {
	_ = p.Signal(sig) // it fails if the process has ended
	if _, ended := p.Wait(patience); !ended {
		p.Kill()
	}
}

// Await polls try until it returns nil: the process is what. The error is that the process, ctx or
// patience has ended.
func (p *Process) Await(ctx context.Context, patience time.Duration, what string, try func() error) error {
	for deadline := time.Now().Add(patience); ; {
		_, ended := p.Wait(0)
		err := try()
		switch {
		case ended: // and what answers is another one's
			return fmt.Errorf("%s has ended; its log ends\n%s", p.name, p.Tail(15))
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("%s is not %s after %s: %w; its log ends\n%s", p.name, what, patience, err, p.Tail(15))
		}
		if _, ended := p.Wait(20 * time.Millisecond); ended {
			return fmt.Errorf("%s has ended; its log ends\n%s", p.name, p.Tail(15))
		}
	}
}

// Wait waits until the process has ended, but not longer than d. exit is what exec.Cmd.Wait said.
func (p *Process) Wait(d time.Duration) (exit error, ended bool) {
	select {
	case <-p.done:
		return p.err, true
	case <-time.After(d):
		return nil, false
	}
}

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Log is everything that the process has written.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Tail is the end of what the process has written, its lines cut to a readable length.
func (p *Process) Tail(lines int) string {
	all := strings.Split(strings.TrimRight(p.Log(), "\n"), "\n")
	all = all[max(0, len(all)-lines):]
	for n, l := range all {
		if len(l) > 500 {
			all[n] = l[:500] + "…"
		}
	}
	return strings.Join(all, "\n")
}

// Result is what a command printed and how it ended.
type Result struct {
	Stdout, Stderr string
	Exit           int
}

// run runs a command to its end; it is killed after 20 s.
func run(cmd *exec.Cmd) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return Result{}, err
	}
	kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	err := cmd.Wait()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), Exit: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return r, err
	}
	if r.Exit < 0 {
		return r, fmt.Errorf("%s: killed after 20 s\n%s%s", cmd, r.Stdout, r.Stderr)
	}
	return r, nil
}
