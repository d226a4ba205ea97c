package revocation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
)

// Key reads the revocations of a key in Consul's KV store for a Registry; its value is as files.RevokedFile. Run has to run. Its methods
// may be called by several goroutines.
type Key struct {
	// Agent is asked, and Name is the key.
	Agent *consul.Agent
	Name  string
	// Registry is told what is read.
	Registry *Registry

	mu      sync.Mutex
	index   uint64 // of the key's change that was read last; 0: there is no such key, or nothing was read
	changed chan struct{}
}

// largestValue is what Consul takes as the value of a key, unless limits.kv_max_value_size says otherwise, in bytes.
const largestValue = 512 << 10

// Run reads the key whenever it changes, until ctx ends; then it returns nil.
func (k *Key) Run(ctx context.Context) error {
	k.Agent.WatchKey(ctx, k.Name, func(v consul.KeyValue) {
		all, err := k.parse(v)
		if err != nil {
			k.Registry.fail(err)
		} else {
			k.Registry.Take(all)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.index = v.Index
		if k.changed != nil {
			close(k.changed)
			k.changed = nil
		}
	}, func(err error) {
		if errors.Is(err, consul.ErrDenied) {
			err = fmt.Errorf("%w: %w", errNotAllowed, err)
		}
		k.Registry.fail(err)
	})
	return nil
}

// parse is what a key says.
func (k *Key) parse(v consul.KeyValue) ([]intention.Revocation, error) {
	if v.Index == 0 {
		return nil, nil // nothing is revoked
	}
	all, err := files.ParseRevoked(k.Name, v.Value)
	if err != nil {
		return nil, fmt.Errorf("the key %s: %w", k.Name, err)
	}
	return all, nil
}

const (
	// longestRead bounds how long Edit waits for what it wrote to be read here.
	longestRead = 5 * time.Second
	// swaps is how often Edit tries while others change the key.
	swaps = 20
)

// Edit changes what is revoked as decide says, with an ACL token (empty: the control plane's own), and returns when that is in force
// here. What others write meanwhile stays. The error is that of decide, or why it was not written; or that it was, and cannot be read here.
func (k *Key) Edit(ctx context.Context, token string, decide Decide) error {
	for range swaps {
		v, err := k.Agent.Key(ctx, token, k.Name)
		if err != nil {
			return fmt.Errorf("Consul's key %s cannot be read: %w", k.Name, err)
		}
		all, err := k.parse(v)
		if err != nil {
			return fmt.Errorf("%w: mend that first: `consul kv get %s`", err, k.Name)
		}
		edit, err := decide(all)
		if err != nil {
			return err
		}
		text, err := files.EditRevoked(k.Name, v.Value, edit.Drop, edit.Add)
		switch {
		case err != nil:
			return err
		case len(text) > largestValue:
			return fmt.Errorf("the key %s would have %d bytes, and Consul takes %d at most: take out what is not needed any more, and revoke an identity rather than each of its certificates", k.Name, len(text), largestValue)
		}
		swapped, err := k.Agent.SwapKey(ctx, token, k.Name, text, v.Index)
		switch {
		case errors.Is(err, consul.ErrDenied):
			return fmt.Errorf("Consul's key %s: %w: bring a token with `key %q { policy = \"write\" }`, by --token-file or CONSUL_HTTP_TOKEN", k.Name, err, k.Name)
		case err != nil:
			return fmt.Errorf("Consul's key %s cannot be written: %w", k.Name, err)
		case swapped:
			return k.await(ctx, v.Index, edit)
		}
		wait := time.NewTimer(rand.N(20 * time.Millisecond))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
	return fmt.Errorf("others change Consul's key %s all the time: try again", k.Name)
}

// await returns when what was read here is newer than the change of old, and says what edit does.
func (k *Key) await(ctx context.Context, old uint64, edit Edit) error {
	timer := time.NewTimer(longestRead)
	defer timer.Stop()
	for {
		k.mu.Lock()
		if k.changed == nil {
			k.changed = make(chan struct{})
		}
		changed, read := k.changed, k.index != old && k.index != 0
		k.mu.Unlock()
		if read && k.says(edit) {
			return nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return fmt.Errorf("it is written into Consul's key %s, and other nodes go by it, but it is not in force on this one: %s", k.Name, k.why())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// says reports whether what was read last is what edit wanted.
func (k *Key) says(edit Edit) bool {
	all := k.Registry.written()
	for _, r := range edit.Add {
		if !slices.ContainsFunc(all, func(o intention.Revocation) bool { return o.ID == r.ID && o.Serial == r.Serial && o.SHA256 == r.SHA256 }) {
			return false
		}
	}
	return edit.Drop == nil || !slices.ContainsFunc(all, func(o intention.Revocation) bool {
		return edit.Drop(o) && !slices.ContainsFunc(edit.Add, func(r intention.Revocation) bool { return o.ID == r.ID && o.Serial == r.Serial && o.SHA256 == r.SHA256 })
	})
}

func (k *Key) why() string {
	if p := k.Registry.Status().Problem; p != "" {
		return p
	}
	return "it has not been read here yet"
}
