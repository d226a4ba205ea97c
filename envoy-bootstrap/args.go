package bootstrap

import (
	"strconv"
	"time"
)

// Args are the flags that an Envoy with this bootstrap, at the path config, must be started with.
// Drain time and strategy, which bound how long a revocation takes, are not part of a bootstrap.
// Hot restart would need shared memory and a second Envoy with the same node.id.
func Args(p Params, config string) []string {
	p = p.withDefaults()
	return []string{
		"--config-path", config,
		"--drain-time-s", strconv.FormatInt(int64(p.DrainTime/time.Second), 10),
		// "gradual" would spread the end of connections over the whole drain time.
		"--drain-strategy", "immediate",
		"--disable-hot-restart",
	}
}
