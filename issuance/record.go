// Package issuance keeps which leafs were given to whom until they end, so that a certificate that is found somewhere
// can be traced to its holder: in memory, and in a file that outlives restarts. Neither keys nor tokens come here.
//
// A leaf is handed out at once, and its line is on the disk a moment later: a disk that stalls holds up no certificate. What a
// power cut takes is what came in since the last sync, a tenth of a second on a disk that works. The keys of proxies and of most
// applications are in memory alone, so those on the same machine are gone with it; of others the leaf ends by itself.
package issuance

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/journal"
	"github.com/sallyport/sallyport/sds"
)

// most is how many leafs are kept. Those that have ended make room first, then those that end first. 10,000
// proxies with leafs of 72 h, renewed at 60 to 90 % of it, have 14,000, and 10,000 more for each restart.
const most = 200_000

// Config says where a Record is kept.
type Config struct {
	// File is where it is written; it is made if it is missing. Required.
	File string
	// Logger gets what could not be read or written. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
}

// Leaf is one leaf that one caller was given.
type Leaf struct {
	// Serial is the serial number, without a sign or leading zeros.
	Serial []byte
	// SHA256 is that of the certificate's DER.
	SHA256 [sha256.Size]byte
	// ID is the SPIFFE ID.
	ID string
	// Caller is who was given it: "proxy web-sidecar-proxy", "token 7QK…", "uid 1000".
	Caller string
	// Issued is when it was handed out first, Ends when it is valid no more.
	Issued, Ends time.Time
}

// key tells records apart: beside Consul an agent gives one leaf to several callers.
type key struct {
	sha256 [sha256.Size]byte
	caller unique.Handle[string]
}

// value is the rest of a Leaf, small.
type value struct {
	serial       string
	id           unique.Handle[string]
	issued, ends int64 // Unix seconds
}

func leafOf(k key, v value) Leaf {
	return Leaf{
		Serial: []byte(v.serial), SHA256: k.sha256, ID: v.id.Value(), Caller: k.caller.Value(),
		Issued: time.Unix(v.issued, 0), Ends: time.Unix(v.ends, 0),
	}
}

// Record is all leafs that have not ended. Make it with Open; Run writes it. All methods may be called by several goroutines.
type Record struct {
	file    string
	max     int
	log     *slog.Logger
	journal *journal.Journal
	dropped prometheus.Counter

	mu   sync.Mutex
	all  map[key]value
	full bool // said in the log
	// pending are those that are to be appended to the file.
	pending []key
}

// Open reads the file. The error is that it cannot be read, or that the metrics cannot be registered. Lines that are
// not as they were written are left out, with a warning; the last one, which a crash may have torn, without.
func Open(c Config) (*Record, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Record{
		file: c.File, max: most, log: c.Logger, all: map[key]value{},
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_leaf_record_dropped_total",
			Help: "Leafs that had not ended and are not in the record any more, as it was full.",
		}),
	}
	if c.Registerer != nil {
		kept := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_leaf_record_leafs",
			Help: "Leafs in the record, of 200,000 at most: those that have not ended, and some that ended within the last minutes.",
		}, r.count)
		if err := errors.Join(c.Registerer.Register(r.dropped), c.Registerer.Register(kept)); err != nil {
			return nil, fmt.Errorf("metrics of the record of leafs: %w", err)
		}
	}
	damaged, err := r.load(time.Now())
	switch {
	case err != nil:
		return nil, fmt.Errorf("record of issued leafs: %w: make it readable, or move %s away, and certificates of before cannot be traced", err, c.File)
	case damaged > 0:
		r.log.Warn("lines of the record of issued leafs are damaged and left out: certificates that they were about cannot be traced", "file", c.File, "count", damaged)
	}
	return r, nil
}

func (r *Record) count() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return float64(len(r.all))
}

// Add records that a caller is given a leaf. It does not wait for the disk.
func (r *Record) Add(c identity.Caller, leaf *x509.Certificate) {
	k := key{sha256.Sum256(leaf.Raw), unique.Make(Name(c))}
	v := value{serial: string(leaf.SerialNumber.Bytes()), issued: time.Now().Unix(), ends: leaf.NotAfter.Unix()}
	if len(leaf.URIs) > 0 {
		v.id = unique.Make(leaf.URIs[0].String())
	} else {
		v.id = unique.Make("")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.all[k]; known {
		return
	}
	r.makeRoom(time.Now())
	r.all[k] = v
	r.pending = append(r.pending, k)
	if len(r.pending) > r.max/4 { // to write all of r.all is no more work
		r.pending = nil
		r.journal.Rewrite()
	}
	r.journal.Signal()
}

// Name is who a caller is, in the record.
func Name(c identity.Caller) string {
	if c.Proxy != "" {
		return "proxy " + string(c.Proxy)
	}
	return c.Application
}

// makeRoom drops leafs if there are as many as may be. r.mu is held.
func (r *Record) makeRoom(now time.Time) {
	if len(r.all) < r.max {
		r.full = r.full && len(r.all) >= r.max*9/10
		return
	}
	r.forget(now)
	if len(r.all) < r.max*19/20 {
		return
	}
	first := make([]key, 0, len(r.all))
	for k := range r.all {
		first = append(first, k)
	}
	slices.SortFunc(first, func(a, b key) int { return cmp.Compare(r.all[a].ends, r.all[b].ends) })
	first = first[:len(first)-r.max*19/20+1]
	for _, k := range first {
		delete(r.all, k)
	}
	r.dropped.Add(float64(len(first)))
	if !r.full {
		r.full = true
		r.log.Warn("the record of issued leafs is full: those that end first are left out and cannot be traced", "file", r.file, "count", r.max)
	}
}

// forget drops the leafs that have ended. r.mu is held.
func (r *Record) forget(now time.Time) {
	for k, v := range r.all {
		if v.ends < now.Unix() {
			delete(r.all, k)
		}
	}
}

// Leafs returns those that match takes and that have not ended, the newest first.
func (r *Record) Leafs(match func(Leaf) bool) (out []Leaf) {
	now := time.Now()
	r.mu.Lock()
	for k, v := range r.all {
		if l := leafOf(k, v); !now.After(l.Ends) && match(l) {
			out = append(out, l)
		}
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b Leaf) int {
		return cmp.Or(b.Issued.Compare(a.Issued), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Caller, b.Caller), slices.Compare(a.SHA256[:], b.SHA256[:]))
	})
	return out
}

// Source returns a source that gives what from gives, and records it.
func (r *Record) Source(from sds.Source) sds.Source { return source{from, r} }

type source struct {
	sds.Source
	record *Record
}

// WatchSVID is that of the source whose leafs are recorded.
func (s source) WatchSVID(ctx context.Context, c identity.Caller, id identity.Service, f func(*sds.SVID)) error {
	return s.Source.WatchSVID(ctx, c, id, func(svid *sds.SVID) {
		if svid != nil && len(svid.Certificates) > 0 && svid.Certificates[0] != nil {
			s.record.Add(c, svid.Certificates[0])
		}
		f(svid)
	})
}
