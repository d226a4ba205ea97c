package netns

import (
	"os"
	"strings"
)

// ID names the network namespace of this process. The machine is a part of it, as the first namespace
// of each has the same number; a restart of the machine makes it another.
func ID() string {
	namespace, err := os.Readlink("/proc/self/ns/net") // namespaces(7)
	if err != nil {
		return ""
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id") // random(4)
	if err != nil {
		return ""
	}
	return namespace + " of " + strings.TrimSpace(string(boot))
}
