package bundle

import "github.com/prometheus/client_golang/prometheus"

// Names that tests of this directory use.
const (
	MaxAuthorities = maxAuthorities
	MaxDocument    = maxDocument
	MaxDomains     = maxDomains
	Tick           = tick
)

var ParseDefinition = parseDefinition

// Collector is what exports the state of s.
func Collector(s *Store) prometheus.Collector { return collector{s} }
