package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/ca"
)

const (
	// maxStderr is how much of what a run writes there goes to the log, in bytes.
	maxStderr = 4 << 10
	// killAfter is between SIGTERM and SIGKILL.
	killAfter = 2 * time.Second
)

// program is a plug-in that is run once for each question.
type program struct {
	name    string
	argv    []string
	env     []string
	timeout time.Duration
	log     *slog.Logger

	mu       sync.Mutex
	logged   time.Time // when something that a run wrote to stderr was logged last
	unlogged int       // runs since whose stderr was not
}

func newProgram(cfg Config, log *slog.Logger) (*program, error) {
	p := &program{name: cfg.Name, argv: cfg.Command, timeout: cfg.Timeout, log: log, env: []string{fmt.Sprintf("SALLYPORT_PLUGIN_VERSION=%d", version)}}
	if path := p.argv[0]; path == "" || strings.ContainsRune(path, filepath.Separator) && !filepath.IsAbs(path) {
		return nil, fmt.Errorf("plug-in %s: the program %q is run in /, where this leads nowhere: write its absolute path", cfg.Name, path)
	}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			p.env = append(p.env, name+"="+value)
		}
	}
	for _, v := range cfg.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return nil, fmt.Errorf("plug-in %s: environment: %.50q is not NAME=VALUE", cfg.Name, name)
		}
	}
	p.env = append(p.env, cfg.Env...)
	return p, nil
}

var (
	errTooLong = errors.New("too long")
	errSilent  = errors.New("silent")
)

// ask runs the program. Whatever it started has ended when ask returns, unless it left the process group.
func (p *program) ask(ctx context.Context, q question) ([]byte, error) {
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	timer := time.AfterFunc(p.timeout, func() { stop(errSilent) })
	defer timer.Stop()
	cmd := exec.CommandContext(running, p.argv[0], p.argv[1:]...) //nolint:gosec // what is run is configured
	cmd.Dir, cmd.Env = "/", p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdin = bytes.NewReader(q.marshal())
	stdout := &bounded{most: maxAnswer, full: func() { stop(errTooLong) }}
	stderr := &bounded{most: maxStderr, full: func() {}}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	err := cmd.Run()
	if cmd.Process != nil {
		// What it left behind. As long as there is any of it nobody else has the number.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	p.logStderr(q.Op, stderr.kept.Bytes())
	cause := context.Cause(running)
	switch {
	case errors.Is(cause, errTooLong):
		return nil, p.failed(q, ca.ErrInvalid, fmt.Errorf("it printed more than %d bytes", maxAnswer))
	case errors.Is(cause, errSilent):
		return nil, p.failed(q, ca.ErrUnavailable, fmt.Errorf("no answer within %s, so it was ended", p.timeout))
	case ctx.Err() != nil:
		return nil, p.failed(q, ca.ErrUnavailable, ctx.Err())
	case errors.Is(err, exec.ErrWaitDelay):
		return nil, p.failed(q, ca.ErrUnavailable, errors.New("it ended, and left a process behind that has its stdout or stderr open"))
	case cmd.Process == nil:
		return nil, p.failed(q, ca.ErrUnavailable, fmt.Errorf("it cannot be run: %w", err))
	case err != nil:
		return nil, p.failed(q, ca.ErrUnavailable, fmt.Errorf("%w: what it wrote to stderr is in the log", err))
	}
	return stdout.kept.Bytes(), nil
}

func (p *program) failed(q question, kind, err error) error {
	return fmt.Errorf("%w: plug-in %s: %s: %s: %w", kind, p.name, p.argv[0], q.Op, err)
}

// logStderr logs what a run wrote, in one line and at most once a second, unless it is what no log may have: a program that writes with each
// leaf, or a thousand lines, would fill the log.
func (p *program) logStderr(op string, text []byte) {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return
	}
	p.mu.Lock()
	now := time.Now()
	if !p.logged.IsZero() && now.Sub(p.logged) < time.Second {
		p.unlogged++
		p.mu.Unlock()
		return
	}
	count := p.unlogged + 1
	p.logged, p.unlogged = now, 0
	p.mu.Unlock()
	if hasPrivateKey(string(text)) {
		p.log.Error("the plug-in writes a private key to stderr, which is not logged: take it for known", "count", count)
		return
	}
	p.log.Info("plug-in", "reason", op, "err", string(text), "count", count)
}

// bounded keeps the beginning of what is written, and calls full when there is more.
type bounded struct {
	kept bytes.Buffer // not embedded: io.Copy would go to its ReadFrom
	most int
	full func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.most - b.kept.Len(); len(p) > room {
		b.kept.Write(p[:room])
		b.full()
	} else {
		b.kept.Write(p)
	}
	return len(p), nil
}
