package sockettable

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tableSocket is a line of /proc/net/tcp or tcp6 (proc_pid_net(5)).
type tableSocket struct {
	local  netip.AddrPort
	listen bool
	uid    string
	inode  string
}

// PortHolder names the process that has addr, as far as this user may know; empty if nothing could
// be found out.
func PortHolder(addr netip.AddrPort) string {
	var held []tableSocket
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, _ := os.ReadFile(path) // one that cannot be read says nothing
		for _, s := range readSocketTable(string(b)) {
			if s.covers(addr) {
				held = append(held, s)
			}
		}
	}
	if len(held) == 0 {
		return ""
	}
	// Who listens, else an outgoing connection that got the port.
	i := max(0, slices.IndexFunc(held, func(s tableSocket) bool { return s.listen }))
	return holder(held[i].inode, held[i].uid)
}

// SocketHolder names the process that listens on a Unix socket.
func SocketHolder(path string) string {
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		// Num RefCount Protocol Flags Type St Inode Path; the flag 10000 marks one that listens.
		if f := strings.Fields(line); len(f) == 8 && f[7] == path && f[3] == "00010000" {
			return holder(f[6], "")
		}
	}
	return ""
}

func readSocketTable(table string) (out []tableSocket) {
	for line := range strings.Lines(table) {
		// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode, …
		f := strings.Fields(line)
		if len(f) < 10 || f[9] == "0" { // without an inode nobody has it open: it is on its way out
			continue
		}
		if local, ok := parseTableAddr(f[1]); ok {
			out = append(out, tableSocket{local: local, listen: f[3] == "0A", uid: f[7], inode: f[9]})
		}
	}
	return out
}

// parseTableAddr reads 0100007F:5208: the address in words of the machine's byte order, and the
// port.
func parseTableAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), ok
}

// covers reports whether a bind of want meets s.
func (s tableSocket) covers(want netip.AddrPort) bool {
	have := s.local.Addr()
	return s.local.Port() == want.Port() && (have == want.Addr().Unmap() || have.IsUnspecified() || want.Addr().IsUnspecified())
}

// holder names the process that has a socket open, by what /proc shows this user, or else the user
// that it belongs to.
func holder(inode, uid string) string {
	target := "socket:[" + inode + "]"
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is a good one, which is all that is ever wrong
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && link == target {
			pid := strings.Split(fd, "/")[2]
			return "pid " + pid + commandLine(pid)
		}
	}
	if uid == "" {
		return "a process of another user"
	}
	name := "uid " + uid
	if u, err := user.LookupId(uid); err == nil {
		name = u.Username
	}
	return fmt.Sprintf("a process of user %s (root sees which)", name)
}

// commandLine is what a process was started with, in parentheses and cut short, or nothing.
func commandLine(pid string) string {
	const limit = 100
	b, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
	if err != nil || len(b) == 0 {
		return ""
	}
	// Anybody may have written it: it must not move the cursor of a terminal.
	line := strings.TrimSpace(strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, string(b)))
	if len(line) > limit {
		line = strings.ToValidUTF8(line[:limit], "") + "…"
	}
	return " (" + line + ")"
}
