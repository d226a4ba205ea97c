//go:build !linux

package sidecar

import "net/netip"

// portHolder says nothing: the system tells a process of its own connections alone.
func portHolder(netip.AddrPort) string { return "" }

// socketHolder says nothing, as portHolder.
func socketHolder(string) string { return "" }
