package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/atomicfile"
)

// MaxLife bounds the life of a token, and so how long it has to be known that one was revoked.
const MaxLife = 366 * 24 * time.Hour

// minTokenID and maxTokenID bound the ID of a token, in bytes; those that are minted have 26.
const minTokenID, maxTokenID = 26, 128

// maxRevoked bounds how many single tokens are revoked at a time.
const maxRevoked = 10_000

// revocations are the tokens that are not taken any more though they have not ended.
type revocations struct {
	file string // empty: they are forgotten at the end

	mu      sync.Mutex              // held while they are changed
	current atomic.Pointer[revoked] // read without a lock
}

// revoked is a set of revocations; it never changes. Times are Unix seconds.
type revoked struct {
	Version int `json:"version"`
	// Tokens says when the revocation of a token, by ID, may be forgotten.
	Tokens map[string]int64 `json:"tokens"`
	// Proxies are those all of whose tokens were revoked.
	Proxies map[identity.ProxyID]cutoff `json:"proxies"`
}

// cutoff revokes the tokens that were issued up to then; Until is when it may be forgotten.
type cutoff struct {
	Issued int64 `json:"issued_until"`
	Until  int64 `json:"until"`
}

const revokedVersion = 1

// openRevocations reads file, if there is one. One that cannot be read is an error: what it says is
// who may not have keys.
func openRevocations(file string) (*revocations, error) {
	r := &revocations{file: file}
	now := &revoked{Version: revokedVersion}
	r.current.Store(now)
	if file == "" {
		return r, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	var sealed bool
	if err == nil {
		b, sealed, err = atomicfile.Unseal(b)
	}
	if err == nil && !sealed {
		err = atomicfile.ErrSeal
	}
	if err == nil {
		err = json.Unmarshal(b, now)
	}
	if err == nil && now.Version != revokedVersion {
		err = fmt.Errorf("format %d was written by a newer sallyport: run that one, or else", now.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("revoked tokens: %s: %w: restore it from a backup, or remove it together with token.key beside it: then all tokens are void, and every proxy needs a new one", file, err)
	}
	return r, nil
}

// has reports whether a token was revoked.
func (r *revoked) has(v verified) bool {
	return r.includes(v.proof.ID, v.proxy, v.issued)
}

// includes reports whether the token id was revoked, or all that its bearer was issued until then.
func (r *revoked) includes(id string, bearer identity.ProxyID, issued int64) bool {
	if _, ok := r.Tokens[id]; ok {
		return true
	}
	c, ok := r.Proxies[bearer]
	return ok && issued <= c.Issued
}

// change puts what f makes of a copy in the place of the present revocations, at once, and records
// it.
func (r *revocations) change(f func(*revoked)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, now := r.current.Load(), time.Now().Unix()
	next := &revoked{Version: revokedVersion, Tokens: map[string]int64{}, Proxies: map[identity.ProxyID]cutoff{}}
	maps.Copy(next.Tokens, old.Tokens)
	maps.Copy(next.Proxies, old.Proxies)
	maps.DeleteFunc(next.Tokens, func(_ string, until int64) bool { return until < now })
	maps.DeleteFunc(next.Proxies, func(_ identity.ProxyID, c cutoff) bool { return c.Until < now })
	f(next)
	if len(next.Tokens) > maxRevoked {
		return fmt.Errorf("%d tokens are revoked one by one already: revoke all of a proxy", len(old.Tokens))
	}
	r.current.Store(next)
	if r.file == "" {
		return nil
	}
	b, err := json.Marshal(next)
	if err == nil {
		err = atomicfile.Replace(r.file, atomicfile.Seal(append(b, '\n')))
	}
	if err != nil {
		return fmt.Errorf("revoked, but not recorded, so only until the control plane is restarted: %w: mend that and revoke again", err)
	}
	return nil
}

// Revoke has the token with that ID not be taken any more, from now on and over restarts. With an
// error it may hold until the next restart only; the error says so.
func (i *Issuer) Revoke(id string) error {
	// Which IDs there are nobody knows, but what cannot be one is not to pass for revoked.
	if len(id) < minTokenID || len(id) > maxTokenID || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
		return fmt.Errorf("%.64q is not the ID of a token: one has %d capital letters and digits, and has to be given whole", id, minTokenID)
	}
	return i.revoked.change(func(r *revoked) { r.Tokens[id] = time.Now().Add(MaxLife).Unix() })
}

// RevokeAll has no token of p that was made until now be taken any more, as Revoke does for one.
func (i *Issuer) RevokeAll(p identity.ProxyID) error {
	if err := checkProxy(p); err != nil {
		return err
	}
	return i.revoked.change(func(r *revoked) {
		now, c := time.Now(), cutoff{}
		if before, ok := r.Proxies[p]; ok {
			// Since then tokens may have been issued for the second after it, and the clock set back.
			c = cutoff{Issued: before.Issued + 1, Until: before.Until}
		}
		r.Proxies[p] = cutoff{Issued: max(now.Unix(), c.Issued), Until: max(now.Add(MaxLife).Unix(), c.Until)}
	})
}

// issuable is the earliest time at which a token of p may be issued: times are whole seconds, and
// one that is issued in the second of a revocation would be revoked with the others.
func (i *Issuer) issuable(p identity.ProxyID, now time.Time) time.Time {
	if c, ok := i.revoked.current.Load().Proxies[p]; ok {
		return time.Unix(max(now.Unix(), c.Issued+1), 0)
	}
	return now
}
