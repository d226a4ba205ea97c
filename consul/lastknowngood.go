package consul

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/internal/latest"
)

// lastKnownGood is the last-known-good file: contents, and when they were known. It holds no keys
// and no tokens.
type lastKnownGood struct {
	Saved    time.Time   `json:"saved"`
	Contents lkgContents `json:"contents"`
	// more and chains are of the contents, too, beside which they lie.
	more   lkgMore
	chains []*chain.Chain
}

// lkgContents are catalog.Contents in the form of the file, with the intentions in one list.
type lkgContents struct {
	Mesh       catalog.Mesh
	Services   []*catalog.Service
	Endpoints  []*catalog.Endpoints
	Proxies    []*catalog.Proxy
	Intentions []intention.Intention
}

func toSave(c catalog.Contents) lkgContents {
	s := lkgContents{Mesh: c.Mesh, Services: c.Services, Proxies: c.Proxies}
	s.Endpoints, _ = subsets(c.Endpoints)
	for _, d := range c.Intentions {
		s.Intentions = append(s.Intentions, d.Intentions...)
	}
	return s
}

// lkgFile is how lastKnownGood lies on disk: with a sum, as half a file or a flipped bit could
// allow what was denied.
type lkgFile struct {
	Format int             `json:"format"`
	Sum    string          `json:"sha256"`
	Saved  json.RawMessage `json:"known"`
	// More is what the releases that refuse what they do not know in Saved do not read, and its sum.
	More    json.RawMessage `json:"more"`
	MoreSum string          `json:"more_sha256"`
}

// lkgMore is what lies in lkgFile.More.
type lkgMore struct {
	Registrations []*catalog.Registration `json:"registrations"`
	Chains        []*savedChain           `json:"chains,omitempty"`
	// Subsets are the endpoints of subsets, which only chains lead to.
	Subsets []*catalog.Endpoints `json:"subsets,omitempty"`
	// TokenProviders are those that intentions ask for tokens of.
	TokenProviders []*catalog.TokenProvider `json:"token_providers,omitempty"`
}

func moreToSave(c catalog.Contents) (m lkgMore, err error) {
	m.Registrations, m.TokenProviders = c.Registrations, c.TokenProviders
	for _, k := range c.Chains {
		s, err := saveChain(k)
		if err != nil {
			return m, err
		}
		m.Chains = append(m.Chains, s)
	}
	_, m.Subsets = subsets(c.Endpoints)
	return m, nil
}

// savedChain is a chain as Consul writes it, and what of its routes is not known here: a file must not
// make one of them match more than it did.
type savedChain struct {
	Chain   json.RawMessage             `json:"chain"`
	Unknown map[string]map[int][]string `json:"unknown,omitempty"` // by node and route
}

func saveChain(c *chain.Chain) (*savedChain, error) {
	s := &savedChain{Unknown: map[string]map[int][]string{}}
	for key, n := range c.Nodes {
		for i, r := range n.Routes {
			if len(r.Definition.Unknown) == 0 {
				continue
			}
			if s.Unknown[key] == nil {
				s.Unknown[key] = map[int][]string{}
			}
			s.Unknown[key][i] = r.Definition.Unknown
		}
	}
	var err error
	s.Chain, err = json.Marshal(c)
	return s, err
}

func (s *savedChain) read() (*chain.Chain, error) {
	c, err := chain.Read(s.Chain)
	if err != nil {
		return nil, err
	}
	for key, routes := range s.Unknown {
		for i, unknown := range routes {
			if n := c.Nodes[key]; n == nil || i < 0 || i >= len(n.Routes) {
				return nil, fmt.Errorf("the chain of %s has no route %d at %q", c.Service, i, key)
			}
			c.Nodes[key].Routes[i].Definition.Unknown = unknown
		}
	}
	return c, nil
}

// subsets parts the endpoints of services from those of subsets.
func subsets(all []*catalog.Endpoints) (whole, parts []*catalog.Endpoints) {
	for _, e := range all {
		if e.Subset == "" {
			whole = append(whole, e)
		} else {
			parts = append(parts, e)
		}
	}
	return whole, parts
}

const lkgFormat = 2

// encodeLKG returns the file of contents and more, which are encoded already, as known at some time.
// It is what json.Marshal makes of a lkgFile and a saved, without two more copies of what may be
// megabytes.
func encodeLKG(at time.Time, contents, more []byte) ([]byte, error) {
	when, err := json.Marshal(at)
	if err != nil {
		return nil, err
	}
	head := fmt.Appendf(nil, `{"saved":%s,"contents":`, when)
	h := sha256.New()
	h.Write(head)
	h.Write(contents)
	h.Write([]byte("}"))
	front := fmt.Appendf(nil, `{"format":%d,"sha256":"%x","known":`, lkgFormat, h.Sum(nil))
	back := fmt.Appendf(nil, `,"more_sha256":"%x","more":`, sha256.Sum256(more))
	return slices.Concat(front, head, contents, []byte("}"), back, more, []byte("}")), nil
}

// decodeLKG is the opposite of encodeLKG. A file of another format is an error too: it is remade
// within seconds.
func decodeLKG(b []byte) (*lastKnownGood, error) {
	f, err := decodeJSON[lkgFile](b)
	if err != nil {
		return nil, err
	}
	if f.Format != lkgFormat {
		return nil, fmt.Errorf("it has format %d, and this is %d", f.Format, lkgFormat)
	}
	if fmt.Sprintf("%x", sha256.Sum256(f.Saved)) != f.Sum {
		return nil, errors.New("its sum is not right")
	}
	d := json.NewDecoder(bytes.NewReader(f.Saved))
	d.DisallowUnknownFields()
	var s lastKnownGood
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	if f.MoreSum != "" { // the last release wrote none
		if fmt.Sprintf("%x", sha256.Sum256(f.More)) != f.MoreSum {
			return nil, errors.New("the sum of its second part is not right")
		}
		if s.more, err = decodeJSON[lkgMore](f.More); err != nil {
			return nil, err
		}
	}
	if s.Contents.Mesh.TrustDomain.IsZero() {
		return nil, errors.New("it names no trust domain")
	}
	c := &s.Contents
	if slices.Contains(c.Services, nil) || slices.Contains(c.Endpoints, nil) || slices.Contains(c.Proxies, nil) ||
		slices.Contains(s.more.Registrations, nil) || slices.Contains(s.more.Chains, nil) || slices.Contains(s.more.Subsets, nil) ||
		slices.Contains(s.more.TokenProviders, nil) {
		return nil, errors.New("something in it is null")
	}
	for _, k := range s.more.Chains {
		c, err := k.read()
		if err != nil {
			return nil, err
		}
		s.chains = append(s.chains, c)
	}
	return &s, nil
}

// loadLKG reads the file; nil if there is none. One that makes no sense is moved aside.
func loadLKG(file string, log *slog.Logger) *lastKnownGood {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		var s *lastKnownGood
		if s, err = decodeLKG(b); err == nil {
			return s
		}
		err = errors.Join(err, os.Rename(file, file+".bad"))
	}
	log.Error("last known good contents not read, the start waits for the agent", "file", file, "err", err)
	return nil
}

// saver writes the file, beside those who serve what is in it, and not more often than every few
// seconds.
type saver struct {
	file    string
	log     *slog.Logger
	newest  latest.Value[catalog.Contents]
	written catalog.Contents // that the file holds
}

const (
	// saveEvery bounds how often the file is written: what changes all the time would wear out a
	// disk.
	saveEvery = 5 * time.Second
	// saveAfter is how long is waited after a change, so that what follows it is written with it,
	// and is not kept waiting.
	saveAfter = time.Second
)

func newSaver(file string, log *slog.Logger) *saver { return &saver{file: file, log: log} }

// put takes contents to be written. It does not block. Those that are written already are not
// written again.
func (s *saver) put(c catalog.Contents) {
	if s.file != "" {
		s.newest.Set(c)
	}
}

// run writes what is put until ctx ends, and at last what is left.
func (s *saver) run(ctx context.Context) {
	for {
		changed := s.newest.Changed()
		s.flush()
		if !backoff.Sleep(ctx, saveEvery-saveAfter) {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
		if !backoff.Sleep(ctx, saveAfter) {
			break
		}
	}
	s.flush()
}

// flush writes the newest, unless the file has the same already: what did not change is the same
// pointer.
func (s *saver) flush() {
	c, ok := s.newest.Load()
	w := &s.written
	if !ok || reflect.DeepEqual(c.Mesh, w.Mesh) && slices.Equal(c.Services, w.Services) &&
		slices.Equal(c.Endpoints, w.Endpoints) && slices.Equal(c.Proxies, w.Proxies) &&
		slices.Equal(c.Intentions, w.Intentions) && slices.Equal(c.Registrations, w.Registrations) && slices.Equal(c.Chains, w.Chains) {
		return
	}
	contents, err := json.Marshal(toSave(c))
	var b, more []byte
	var second lkgMore
	if err == nil {
		second, err = moreToSave(c)
	}
	if err == nil {
		more, err = json.Marshal(second)
	}
	if err == nil {
		b, err = encodeLKG(time.Now().UTC(), contents, more)
	}
	if err == nil {
		err = atomicfile.Replace(s.file, b)
	}
	if err != nil {
		s.log.Error("last known good contents not written", "file", s.file, "err", err)
		return
	}
	s.written = c
}
