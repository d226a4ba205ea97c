package claim

import (
	"os"
	"strings"
)

// listening are the paths of the Unix sockets on which somebody listens (proc_net(5)).
func listening() map[string]bool {
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil
	}
	paths := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		// Num RefCount Protocol Flags Type St Inode Path; the flag 10000 marks one that listens.
		if f := strings.Fields(line); len(f) == 8 && f[3] == "00010000" {
			paths[f[7]] = true
		}
	}
	return paths
}
