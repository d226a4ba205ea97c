package xds

import (
	"fmt"
	"slices"
	"strings"
)

// maxLoggedNames is how many names of resources a line of the log has; others are counted.
const maxLoggedNames = 20

// logRefusals logs a NACK, if there is one, and that resources are refused no more. No lock is held, as
// a log may be slow.
func (s *session) logRefusals(k kind, nack *NACK, healed []string, status string) {
	fields := []any{"audit", "nack", "proxy", s.caller.Proxy, "type_url", k.url()}
	if nack != nil {
		text := strings.TrimSpace(nack.Message)
		if remedy := nack.Remedy(); remedy != "" {
			text += ": " + remedy
		}
		if nack.InUse() != "" {
			text += " (`sallyport check` says who has it)"
		}
		s.server.log.Info("envoy refused resources", append(fields, "resources", someNames(nack.Resources), "status", "refused", "err", text)...)
	}
	if len(healed) > 0 {
		s.server.log.Info("envoy refuses resources no more", append(fields, "resources", someNames(healed), "status", status)...)
	}
}

// someNames are names, as many as a line may have.
func someNames(all []string) []string {
	if more := len(all) - maxLoggedNames; more > 0 {
		return append(slices.Clone(all[:maxLoggedNames]), fmt.Sprintf("and %d more", more))
	}
	return all
}
