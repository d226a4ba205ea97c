package workload

import (
	"sync"
	"time"

	"github.com/sallyport/sallyport/attest"
	"google.golang.org/grpc/status"
)

// denial is who may not have something, and why.
type denial struct {
	uid    int
	reason string
}

// maxDenials bounds how many are logged within a minute: a user has a line for each reason, and who has a range of users has many.
const maxDenials = 1000

// denials are those of the last minute. The zero value has none.
type denials struct {
	mu  sync.Mutex
	end time.Time
	all map[denial]bool
}

// first reports whether d is the first of its kind within a minute.
func (ds *denials) first(d denial, now time.Time) bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if now.After(ds.end) {
		ds.end, ds.all = now.Add(time.Minute), map[denial]bool{}
	}
	if ds.all[d] || len(ds.all) >= maxDenials {
		return false
	}
	ds.all[d] = true
	return true
}

// refuse counts that a process is denied something, and logs it once a minute for its user. It returns err, a gRPC status.
func (s *Server) refuse(p *attest.Process, reason string, err error) error {
	s.metrics.denied(reason)
	if s.denials.first(denial{p.UID, reason}, time.Now()) {
		s.log.Info("denied", "audit", "denial", "peer", application(p), "pid", p.PID, "endpoint", "workload.sock", "reason", reason, "err", short(status.Convert(err).Message()))
	}
	return err
}

// short is a text for the log, of which a client may have sent a part.
func short(text string) string { return text[:min(len(text), 600)] }
