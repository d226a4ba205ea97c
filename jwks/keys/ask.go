package keys

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/sallyport/sallyport/jwks"
)

// firstRetry is about how long after a first failure a source is asked again.
const firstRetry = 2 * time.Second

// savedOften is how often it is recorded that keys are still the same.
const savedOften = time.Minute

// follow asks a source again and again, until ctx ends.
func (s *Store) follow(ctx context.Context, at catalog.KeySource, of *source) {
	ask, done := s.asker(at)
	defer done()
	for {
		text, err := ask(ctx)
		if ctx.Err() != nil {
			return
		}
		if !backoff.Sleep(ctx, s.answered(ctx, at, of, text, err)) {
			return
		}
	}
}

// asker returns what asks a source, and what ends that.
func (s *Store) asker(at catalog.KeySource) (ask func(context.Context) ([]byte, error), done func()) {
	if at.URI == "" {
		return func(context.Context) ([]byte, error) { return readFile(at.File) }, func() {}
	}
	fail := func(err error) (func(context.Context) ([]byte, error), func()) {
		return func(context.Context) ([]byte, error) { return nil, err }, func() {}
	}
	u, err := url.Parse(at.URI)
	if err != nil {
		return fail(errors.New("the URI is none")) // it was read already
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	if u.RawQuery != "" {
		path += "?" + u.RawQuery
	}
	timeout := at.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	client, err := remote.New(remote.Config{
		Name: "JWKS", URL: "https://" + u.Host, CAFile: at.CAFile, CA: at.CA, CAOption: "TrustedCA", RedirectAnywhere: true, Timeout: timeout,
		Attempts: int(at.Retries) + 1, MaxAnswer: jwks.MaxBytes, Connections: 1, Reach: s.cfg.Reach,
	})
	if err != nil {
		return fail(err)
	}
	return func(ctx context.Context) ([]byte, error) {
		answer, err := client.Ask(ctx, remote.Question{Path: path})
		if err != nil {
			return nil, err
		}
		return answer.Body, nil
	}, client.Close
}

// answered takes what a source said, unless nobody wants to know any more since ctx has ended, and returns how long to leave it alone.
func (s *Store) answered(ctx context.Context, at catalog.KeySource, of *source, text []byte, err error) time.Duration {
	var set jwks.Set
	if err == nil {
		if set, err = jwks.Parse(text); err != nil {
			err = fmt.Errorf("what came from %s is of no use: %w", place(at), err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return firstRetry
	}
	if err != nil {
		if of.failures++; of.err == nil || of.err.Error() != err.Error() {
			s.log.Error("keys of tokens not taken: those that came last are used", "source", place(at), "err", err)
		}
		of.err = err
		return min(backoff.Delay(of.failures, firstRetry, time.Minute), period(at))
	}
	if of.set.Text != set.Text {
		s.log.Info("keys of tokens changed", "source", place(at), "gained", less(set.IDs, of.set.IDs), "lost", less(of.set.IDs, set.IDs))
	}
	if told := strings.Join(append(append([]string{}, set.Secrets...), set.Left...), "; "); told != of.told {
		if of.told = told; told != "" {
			s.log.Warn("keys of tokens left out", "source", place(at), "err", told)
		}
	}
	changed := of.set.Text != set.Text
	of.set, of.since, of.confirmed, of.failures, of.err = set, time.Now(), true, 0, nil
	if !changed && (at.URI == "" || time.Since(of.saved) < savedOften) {
		return period(at)
	}
	of.saved = of.since
	if err := s.save(at, of); err != nil {
		s.log.Error("keys of tokens are not kept: after a restart they have to be asked for", "source", place(at), "err", err)
	}
	s.publish()
	return period(at)
}

// less are the kids that are in a and not in b, in a line.
func less(a, b []string) string {
	var out []string
	for _, id := range a {
		if !slices.Contains(b, id) {
			out = append(out, id)
		}
	}
	return strings.Join(out, " ")
}

// kept are the last good keys of a source, as the data directory has them.
type kept struct {
	// Source is where they came from, and how it was verified: the keys of another source are not its.
	Source    catalog.KeySource `json:"source"`
	Confirmed time.Time         `json:"confirmed"`
	Keys      json.RawMessage   `json:"keys"`

	set jwks.Set
}

// maxKept bounds the file of kept keys.
const maxKept = 2*jwks.MaxBytes + 1<<20

// origin is a source without what changes nothing of what it says.
func origin(at catalog.KeySource) catalog.KeySource {
	return catalog.KeySource{URI: at.URI, File: at.File, CAFile: at.CAFile, CA: at.CA}
}

func (s *Store) file(at catalog.KeySource) string {
	b, _ := json.Marshal(origin(at)) // of texts
	sum := sha256.Sum256(b)
	return filepath.Join(s.cfg.Data, hex.EncodeToString(sum[:])+".json")
}

// load returns what is kept of a source; nil: nothing.
func (s *Store) load(at catalog.KeySource) (*kept, error) {
	text, err := readBounded(s.file(at), maxKept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // there is nothing
	}
	if err != nil {
		return nil, err
	}
	k := &kept{}
	if err := json.Unmarshal(text, k); err != nil {
		return nil, fmt.Errorf("%s: %w", s.file(at), err)
	}
	if k.Source != origin(at) {
		return nil, fmt.Errorf("%s: it is of another source", s.file(at))
	}
	if k.set, err = jwks.Parse(k.Keys); err != nil {
		return nil, fmt.Errorf("%s: %w", s.file(at), err)
	}
	return k, nil
}

// forget removes what is kept of a source: should it come back, it is asked anew.
func (s *Store) forget(at catalog.KeySource) {
	if err := os.Remove(s.file(at)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("keys of tokens that nobody wants any more are still kept", "source", place(at), "err", err)
	}
}

// save keeps the keys of a source. s.mu is held.
func (s *Store) save(at catalog.KeySource, of *source) error {
	text, err := json.MarshalIndent(kept{Source: origin(at), Confirmed: of.since, Keys: json.RawMessage(of.set.Text)}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.cfg.Data, 0o700); err != nil {
		return err
	}
	return atomicfile.Replace(s.file(at), append(text, '\n'))
}

func readFile(name string) ([]byte, error) { return readBounded(name, jwks.MaxBytes) }

// readBounded reads a file of some bytes at most. It does not wait for one that is a pipe.
func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", name)
	case info.Size() > most:
		return nil, fmt.Errorf("%s has %d bytes: at most %d are taken", name, info.Size(), most)
	}
	return io.ReadAll(io.LimitReader(f, most))
}
