package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// process is a program that is measured.
type process struct{ *meshtest.Process }

// launch starts a program with its output in the file log.
func launch(name, log string, env []string, program string, args ...string) (*process, error) {
	cmd := exec.Command(program, args...) //nolint:noctx // it outlives an interrupt, until stop ends it
	cmd.Env = env
	p, err := meshtest.Launch(name, log, cmd)
	if err != nil {
		return nil, err
	}
	return &process{p}, nil
}

// stop ends the process and waits for it.
func (p *process) stop() {
	if p != nil {
		p.Stop(syscall.SIGTERM, 10*time.Second)
	}
}

// ownCPU is the processor time that this process has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpu is the processor time that the process has used; 0 for nil. Linux counts it in hundredths of a second (proc_pid_stat(5), USER_HZ).
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0
	}
	// The fields are counted from behind the name, which may hold anything: utime and stime are the 14th and 15th of all.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// rss is the memory that the process has resident, in bytes; 0 for nil.
func (p *process) rss() int64 { return p.memory("VmRSS:") }

// peak is the most memory that the process had resident, in bytes; 0 for nil.
func (p *process) peak() int64 { return p.memory("VmHWM:") }

// memory is one of the figures that Linux has of a process's memory (proc_pid_status(5)).
func (p *process) memory(name string) int64 {
	if p == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return 0
			}
			return kb << 10
		}
	}
	return 0
}
