package bundle

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// OfferConfig says what an Offer has. All is required but what says otherwise.
type OfferConfig struct {
	// TrustDomain is the mesh's own; ok is false as long as it is not known.
	TrustDomain func() (td spiffeid.TrustDomain, ok bool)
	// Roots are what verifies the mesh's identities; ok is false as long as they are not known.
	Roots func() (r *sds.Roots, ok bool)
	// RootsChanged returns a channel that is closed when Roots has something new.
	RootsChanged func() <-chan struct{}
	// JWTKeys is a JWK set of the keys of its JWT-SVIDs, and is asked again each time. Nil, or nil from it: there are none.
	JWTKeys func() []byte
	// RefreshHint is how often others are to ask. Zero: DefaultRefreshHint.
	RefreshHint time.Duration
	// File is where the last sequence number is recorded.
	File string
	// Logger gets new bundles. Nil: nothing is logged.
	Logger *slog.Logger
}

// Offer is the mesh's own bundle as others are given it: over HTTP (SPIFFE Federation, 5.1). Its sequence number grows with each change of
// what is in it, over restarts too. Make it with NewOffer, Run keeps it up to date.
type Offer struct {
	cfg     OfferConfig
	log     *slog.Logger
	current latest.Value[*offered]

	mu      sync.Mutex
	last    numbered
	unsaved bool // last is not recorded
}

// offered is a bundle as it is served.
type offered struct {
	doc  *Document
	text []byte
	etag string
}

// numbered is which content has which number.
type numbered struct {
	Sequence uint64 `json:"sequence"`
	SHA256   string `json:"sha256"`
}

// NewOffer reads the last sequence number. The error names the file and the remedy.
func NewOffer(cfg OfferConfig) (*Offer, error) {
	o := &Offer{cfg: cfg, log: cfg.Logger}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	if o.cfg.RefreshHint == 0 {
		o.cfg.RefreshHint = DefaultRefreshHint
	}
	text, err := os.ReadFile(cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &o.last)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: the sequence number of the mesh's bundle: %w: delete the file; numbers then go on from the time of day", cfg.File, err)
	}
	return o, nil
}

// Run makes the bundle anew when roots change, and looks for other keys of JWT-SVIDs every few seconds, until ctx ends; then it returns nil.
func (o *Offer) Run(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		changed := o.cfg.RootsChanged()
		o.refresh()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		}
	}
}

// Document is the bundle of now; nil as long as the roots are not known. It must not be changed.
func (o *Offer) Document() *Document {
	if now, ok := o.current.Load(); ok {
		return now.doc
	}
	return nil
}

// refresh makes the bundle anew if it is another one.
func (o *Offer) refresh() {
	td, known := o.cfg.TrustDomain()
	roots, ok := o.cfg.Roots()
	if !known || !ok {
		return
	}
	doc := &Document{trustDomain: td, hint: o.cfg.RefreshHint, sequenced: true}
	var list []*x509.Certificate
	for _, r := range roots.List() {
		list = append(list, r.Certificate)
	}
	doc.authorities = list
	if o.cfg.JWTKeys != nil {
		doc.keys = keysOf(td, o.cfg.JWTKeys())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	sum := sha256.Sum256(doc.digest())
	digest := hex.EncodeToString(sum[:])
	_, served := o.current.Load()
	if served && digest == o.last.SHA256 {
		if o.unsaved {
			o.record()
		}
		return
	}
	if digest != o.last.SHA256 {
		if o.last.Sequence == 0 {
			// Higher than what a control plane said that lost its file.
			o.last.Sequence = uint64(max(time.Now().Unix(), 1))
		} else {
			o.last.Sequence++
		}
		o.last.SHA256 = digest
		o.record()
	}
	doc.sequence = o.last.Sequence
	text, err := doc.JSON()
	if err != nil {
		o.log.Error("the mesh's bundle cannot be written", "err", err)
		return
	}
	o.current.Set(&offered{doc, text, strconv.Quote(strconv.FormatUint(doc.sequence, 10) + "-" + digest[:16])})
	o.log.Info("the mesh's bundle for other trust domains", "audit", "trust_domain", "trust_domain", td.Name(), "roots", len(doc.authorities), "sequence", doc.sequence)
}

// keysOf are the keys of a JWK set; nil if it has none.
func keysOf(td spiffeid.TrustDomain, set []byte) map[string]crypto.PublicKey {
	if len(set) == 0 {
		return nil
	}
	b, err := jwtbundle.Parse(td, set)
	if err != nil { // it is our own
		return nil
	}
	return b.JWTAuthorities()
}

// record has the last sequence number survive a restart. o.mu is held.
func (o *Offer) record() {
	text, err := json.Marshal(o.last)
	if err == nil {
		err = atomicfile.Replace(o.cfg.File, append(text, '\n'))
	}
	if err != nil && !o.unsaved {
		o.log.Error("the sequence number of the mesh's bundle is not recorded, and is tried again: after a restart before that others may refuse the bundle", "file", o.cfg.File, "err", err)
	}
	o.unsaved = err != nil
}

// ServeHTTP answers GET of / with the bundle.
func (o *Offer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now, ok := o.current.Load()
	switch {
	case r.URL.Path != "/":
		http.NotFound(w, r)
		return
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "the bundle is asked for by GET", http.StatusMethodNotAllowed)
		return
	case !ok:
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the roots are not known yet", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("ETag", now.etag)
	if r.Header.Get("If-None-Match") == now.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(now.text) // a client that went away needs no answer
}
