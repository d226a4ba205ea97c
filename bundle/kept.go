package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// kept is the last good bundle of a trust domain with an endpoint, as the data directory has it.
type kept struct {
	TrustDomain string `json:"trust_domain"`
	// Endpoint is where it came from, URL and profile. Of another one the sequence says nothing.
	Endpoint string `json:"endpoint"`
	// First is the SHA-256 of the first bundle's file that was believed last: another one is believed anew.
	First string `json:"first,omitempty"`
	// Confirmed is when the endpoint said it last; zero: it did not say it.
	Confirmed time.Time       `json:"confirmed,omitzero"`
	Bundle    json.RawMessage `json:"bundle"`
}

// maxKept bounds the file of a kept bundle.
const maxKept = 2*maxDocument + 64<<10

// memory is the directory of what is kept.
type memory struct{ dir string }

func (m memory) file(td spiffeid.TrustDomain) string { return filepath.Join(m.dir, td.Name()+".json") }

// load returns what is kept of td; nil: nothing. The error is that it cannot be used.
func (m memory) load(td spiffeid.TrustDomain) (*kept, *Document, error) {
	file := m.file(td)
	text, err := readFile(file, maxKept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	if k.TrustDomain != td.Name() {
		return nil, nil, fmt.Errorf("%s: it is of %.300q", file, k.TrustDomain)
	}
	d, err := parse(td, k.Bundle)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return &k, d, nil
}

// save keeps k with d as its bundle.
func (m memory) save(k kept, d *Document) (err error) {
	k.TrustDomain = d.trustDomain.Name()
	if k.Bundle, err = d.JSON(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	return atomicfile.Replace(m.file(d.trustDomain), append(text, '\n'))
}

// forget removes what is kept of td: should it come back, it begins anew.
func (m memory) forget(td spiffeid.TrustDomain) error {
	if err := os.Remove(m.file(td)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
