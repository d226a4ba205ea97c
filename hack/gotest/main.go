// Command gotest runs `go test` with the arguments that it is given and prints what a person wants to read of it: a line per
// package, what a failed test printed, which tests were skipped and why, and the lines "FIGURE …" in which tests say what they
// measured, and "NOTE: …", in which they say what of them this machine did not let them do. Everything that the tests printed goes into a log.
//
//	gotest [-log FILE] [-no-skip] -- ARGUMENTS OF GO TEST
//
// It ends with status 1 if a test failed or, with -no-skip, was skipped, and with 3 if tests failed only where this machine is too
// slow for them: where the control load failed too (internal/meshtest.TooSlow).
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	log := flag.String("log", "", "file for everything that the tests print")
	noSkip := flag.Bool("no-skip", false, "fail if a test was skipped")
	flag.Parse()
	status, err := run(*log, *noSkip, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		status = statusFailed
	}
	os.Exit(status)
}

const (
	statusPassed  = 0
	statusFailed  = 1
	statusTooSlow = 3
)

func run(logPath string, noSkip bool, args []string) (status int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := io.Discard
	if logPath != "" {
		if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
			return statusFailed, err
		}
		f, err := os.Create(logPath)
		if err != nil {
			return statusFailed, err
		}
		defer func() { _ = f.Close() }()
		log = f
	}
	start := time.Now()
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go test ends the tests' processes
	cmd.WaitDelay = 30 * time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return statusFailed, err
	}
	if err := cmd.Start(); err != nil {
		return statusFailed, err
	}
	r := newReport(os.Stdout, log)
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return statusFailed, err
	}
	r.summary(time.Since(start))
	return r.status(err != nil, noSkip), nil
}
