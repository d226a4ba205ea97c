package connect

import (
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Metrics is told what a Service does. A field that is nil is told nothing. The functions are called
// from many goroutines at once and must not block.
type Metrics struct {
	// Judged is told of each inbound peer: who it says it is (zero if its certificate is none of a
	// service of this mesh), and why it was refused; nil if it may come in. took is the whole
	// judgement, the question to the API included.
	Judged func(peer spiffeid.ID, err error, took time.Duration)
	// Dialed is told of each Dial, HTTP's included: the service, why it failed, and the time until the
	// handshake was over.
	Dialed func(service string, err error, took time.Duration)
	// Asked is told of each question to the API: which ("leaf", "roots", "authorize", "instances",
	// "intentions"), why it failed, and how long it took, waiting for changes included.
	Asked func(question string, err error, took time.Duration)
	// Ended is told of each connection that EndOnRevocation closed.
	Ended func(peer spiffeid.ID, inbound bool)
}

func (m Metrics) judged(peer spiffeid.ID, err error, took time.Duration) {
	if m.Judged != nil {
		m.Judged(peer, err, took)
	}
}

func (m Metrics) dialed(service string, err error, took time.Duration) {
	if m.Dialed != nil {
		m.Dialed(service, err, took)
	}
}

func (m Metrics) asked(question string, err error, took time.Duration) {
	if m.Asked != nil {
		m.Asked(question, err, took)
	}
}

func (m Metrics) ended(peer spiffeid.ID, inbound bool) {
	if m.Ended != nil {
		m.Ended(peer, inbound)
	}
}
