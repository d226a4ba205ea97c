package bundle

import (
	"crypto/x509"

	"github.com/prometheus/client_golang/prometheus"
)

// Names that tests of this directory use.
const (
	MaxAuthorities = maxAuthorities
	MaxDocument    = maxDocument
	MaxDomains     = maxDomains
	Tick           = tick
)

// Functions that tests of this directory use.
var (
	Parse           = parse
	ParseDefinition = parseDefinition
)

// Authorities are the certificates of d.
func (d *Document) Authorities() []*x509.Certificate { return d.authorities }

// Collector is what exports the state of s.
func Collector(s *Store) prometheus.Collector { return collector{s} }
