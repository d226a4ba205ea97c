package connect

import (
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	// ErrClosed is wrapped by errors of a Service that was closed.
	ErrClosed = errors.New("the service is closed")
	// ErrNoInstance is wrapped by the error of Dial if the catalog has no healthy instance.
	ErrNoInstance = errors.New("no healthy instance")
	// ErrWrongPeer is wrapped by the error of Dial if who answered has the certificate of another
	// service.
	ErrWrongPeer = errors.New("another service")
	// ErrDenied is wrapped by the error of a handshake that was refused because the intentions deny
	// the peer.
	ErrDenied = errors.New("denied")
	// errNotReady is wrapped as long as there is no certificate, or no roots.
	errNotReady = errors.New("not ready")
)

// statusError is an answer of the API that is no 200.
type statusError struct {
	method, path, address string
	code                  int
	text                  string
	remedy                string
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("%s %s at %s: %d %s", e.method, e.path, e.address, e.code, e.text)
	if e.remedy != "" {
		s += ": " + e.remedy
	}
	return s
}

// wrongPeer says whose certificate was seen.
func wrongPeer(address string, is, want spiffeid.ID) error {
	return fmt.Errorf("certificate of %s is %s, not %s: %w has the address that the catalog says: mend its registration, or dial again", address, is, want, ErrWrongPeer)
}
