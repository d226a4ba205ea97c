package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// state is the file in which a demo writes down its processes and its directory, so that the next one can end and remove what was left
// over: processes by ID and start time, for an ID alone may be somebody else's by then.
type state struct {
	path    string
	current run
}

type run struct {
	Dir       string    `json:"dir"` // of keys, tokens and logs
	Processes []process `json:"processes"`
}

type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // as startTime says it
	Name  string `json:"name"`
}

// openState opens the file of that name of this user's demos.
func openState(file string) (*state, error) {
	dir := filepath.Join(os.TempDir(), "sallyport-demo-"+strconv.Itoa(os.Geteuid()))
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		if info, err := os.Stat(d); err == nil && ownedBy(info) {
			dir = filepath.Join(d, "sallyport-demo")
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	// Whoever can write there could have us end any process of this user.
	if !info.IsDir() || !ownedBy(info) || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s is not this user's own directory: remove it", dir)
	}
	return &state{path: filepath.Join(dir, file)}, nil
}

func ownedBy(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(s.Uid) == os.Geteuid()
}

// endLeftovers ends the processes that a demo wrote down which has ended before them, and begins a list of its own. A demo that
// still runs is an error.
func (s *state) endLeftovers() error {
	b, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var left run
	if len(b) > 0 && json.Unmarshal(b, &left) != nil {
		return fmt.Errorf("%s cannot be read: look for a demo that still runs, then remove the file", s.path)
	}
	for n, p := range left.Processes {
		if n == 0 && p.runs() { // the demo itself comes first
			return fmt.Errorf("a demo runs here, process %d: end it first, with Ctrl-C or `kill %d`", p.PID, p.PID)
		}
		if err := end(p); err != nil {
			return err
		}
	}
	if left.Dir != "" {
		if err := os.RemoveAll(left.Dir); err != nil {
			return err
		}
	}
	return s.add(os.Getpid(), "demo")
}

// setDir writes the directory down.
func (s *state) setDir(dir string) error {
	s.current.Dir = dir
	return s.write()
}

// add writes a process down.
func (s *state) add(pid int, name string) error {
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	s.current.Processes = append(s.current.Processes, process{pid, start, name})
	return s.write()
}

func (s *state) write() error {
	b, err := json.Marshal(s.current)
	if err != nil {
		return err
	}
	tmp := s.path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, s.path)
}

// clear forgets everything.
func (s *state) clear() error { return os.Remove(s.path) }

// end ends a process if it is still the one that was written down.
func end(p process) error {
	handle, err := os.FindProcess(p.PID) // on Linux a handle of the process itself, whatever becomes of its ID
	if err != nil {
		return nil // there is none
	}
	defer handle.Release() //nolint:errcheck // nothing to be done
	if !p.runs() {
		return nil
	}
	fmt.Printf("Ending what an earlier demo left over: %s, process %d.\n", p.Name, p.PID)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := handle.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("%s, process %d, of an earlier demo: %w", p.Name, p.PID, err)
		}
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if !p.runs() {
				return nil
			}
		}
	}
	return fmt.Errorf("%s, process %d, of an earlier demo does not end", p.Name, p.PID)
}

// runs reports whether the process that was written down has not ended.
func (p process) runs() bool {
	now, err := startTime(p.PID)
	return err == nil && now == p.Start
}

// startTime is when a process began, in whatever unit the system has; an error if there is no such process, or only its remains.
func startTime(pid int) (string, error) {
	if runtime.GOOS != "linux" {
		out, err := exec.Command("ps", "-o", "lstart=", "-p", strconv.Itoa(pid)).Output() //nolint:noctx // a number; it ends at once
		if err != nil || strings.TrimSpace(string(out)) == "" {
			return "", fmt.Errorf("process %d: not found", pid)
		}
		return strings.TrimSpace(string(out)), nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// pid (name) state ppid …: the name may hold anything, so count from its last bracket. The start time is field 22 (proc_pid_stat(5)).
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 || f[0] == "Z" {
		return "", fmt.Errorf("process %d: has ended", pid)
	}
	return f[19], nil
}
