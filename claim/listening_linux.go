package claim

import (
	"os"
	"strings"
)

// listening reports whether somebody listens on the Unix socket at path (proc_net(5)).
func listening(path string) bool {
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		// Num RefCount Protocol Flags Type St Inode Path; the flag 10000 marks one that listens.
		if f := strings.Fields(line); len(f) == 8 && f[7] == path && f[3] == "00010000" {
			return true
		}
	}
	return false
}
