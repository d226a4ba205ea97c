//go:build !linux

package sockettable

import "net/netip"

// PortHolder says nothing: the system tells a process of its own connections alone.
func PortHolder(netip.AddrPort) string { return "" }

// SocketHolder says nothing, as PortHolder.
func SocketHolder(string) string { return "" }
