package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
)

// otherUser is a user of whom nothing is, who has applications; 0 if this process may not act as another one.
func otherUser() int {
	if os.Geteuid() == 0 {
		return 12345
	}
	return 0
}

// dialAs connects as another user, unless uid is 0: of a connection the kernel keeps whose the thread was that made it.
func dialAs(ctx context.Context, uid int, network, address string) (net.Conn, error) {
	if uid == 0 {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, which is another's now, ends with the goroutine
		const keep = ^uintptr(0)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
			done <- dialled{nil, fmt.Errorf("acting as uid %d: %w", uid, errno)}
			return
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		done <- dialled{c, err}
	}()
	d := <-done
	return d.conn, d.err
}

// sockets is how many sockets a process has open.
func (p *process) sockets() (int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", p.PID())
	all, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range all {
		to, err := os.Readlink(dir + "/" + e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue // closed since
		}
		if err != nil {
			return 0, err
		}
		if len(to) > 7 && to[:7] == "socket:" {
			n++
		}
	}
	return n, nil
}
