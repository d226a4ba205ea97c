//go:build !linux

package main

import (
	"context"
	"errors"
	"net"
)

// otherUser is nobody: only Linux has threads of different users.
func otherUser() int { return 0 }

// dialAs connects as this process's user.
func dialAs(ctx context.Context, _ int, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// onOneProcessor does nothing: elsewhere than on Linux nobody can say where a process runs.
func onOneProcessor(...*process) (back func() error, err error) {
	return func() error { return nil }, nil
}

// sockets is how many sockets a process has open, which only Linux says.
func (p *process) sockets() (int, error) { return 0, errors.ErrUnsupported }
