package claim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/atomicfile"
)

// memory is the form of the file in which it is kept who holds what.
type memory struct {
	Version int                               `json:"version"`
	Proxies map[identity.ProxyID][]remembered `json:"proxies"`
	// Sockets are who listened last on the paths of this machine that are still there.
	Sockets map[string]identity.ProxyID `json:"sockets,omitempty"`
	Places  map[identity.ProxyID]place  `json:"places,omitempty"`
}

// remembered is a part that holds an address.
type remembered struct {
	Kind    kind           `json:"kind"`
	What    string         `json:"what"`
	Name    string         `json:"name,omitempty"`
	Origin  string         `json:"origin"`
	Host    string         `json:"host,omitempty"`
	Network string         `json:"network,omitempty"`
	Address netip.AddrPort `json:"address,omitzero"`
	Socket  string         `json:"socket,omitempty"`
}

const memoryVersion = 1

// load has everybody hold what the file says.
func (r *Registry) load() error {
	if r.file == "" {
		return nil
	}
	src, err := os.ReadFile(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var m memory
	if err := json.Unmarshal(src, &m); err != nil {
		return err
	}
	if m.Version != memoryVersion {
		return fmt.Errorf("version %d, and %d is known", m.Version, memoryVersion)
	}
	r.remembers = true
	maps.Copy(r.sockets, m.Sockets)
	maps.Copy(r.places, m.Places)
	for id, parts := range m.Proxies {
		rec := &record{id: id}
		for _, x := range parts {
			p := &part{kind: x.Kind, Address: Address{
				Proxy: id, What: x.What, Name: x.Name, Origin: x.Origin, Host: x.Host, Network: x.Network, IP: x.Address.Addr(), Port: x.Address.Port(),
				Socket: x.Socket, Dialled: x.Kind.turn() == application.turn(),
			}}
			p.part = p
			if p.Socket != "" {
				p.real = realPath(&p.Address)
			}
			if p.held = r.table.Add(&p.Address) == nil; p.held {
				rec.parts = append(rec.parts, p)
			}
		}
		r.proxies[id] = rec
	}
	return nil
}

// remember is what the file is to say.
func (r *Registry) remember() ([]byte, error) {
	m := memory{Version: memoryVersion, Proxies: make(map[identity.ProxyID][]remembered, len(r.proxies)), Sockets: r.sockets, Places: r.places}
	for id, rec := range r.proxies {
		var parts []remembered
		for _, p := range rec.parts {
			if !p.held {
				continue
			}
			x := remembered{Kind: p.kind, What: p.What, Name: p.Name, Origin: p.Origin, Host: p.Host, Network: p.Network, Socket: p.Socket}
			if p.Socket == "" {
				x.Address = netip.AddrPortFrom(p.IP, p.Port)
			}
			parts = append(parts, x)
		}
		m.Proxies[id] = parts
	}
	maps.DeleteFunc(r.sockets, func(path string, _ identity.ProxyID) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist) && len(r.table.sockets[hostSocket{"", path}]) == 0
	})
	return json.Marshal(m)
}

// every is how often is looked whether what is refused is free now, and whether who holds what is to
// be written down: a socket is removed, and what was kept for a proxy that does not come back is not
// any more, without a change of the catalog.
const every = 3 * time.Second

// Run has s publish what it may, until s ends. Who holds what is written down beside that: a disk that
// stalls holds up nothing. What is not written when the control plane ends at once goes, at the next
// start, to whoever comes first.
func (r *Registry) Run(ctx context.Context, s catalog.Source, publish func(catalog.Contents)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.publishing.Lock()
	r.publish = publish
	r.publishing.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				r.save()
				return
			case <-tick.C:
			}
			r.publishing.Lock()
			if c, changed := r.retry(); changed {
				publish(c)
			}
			r.publishing.Unlock()
			r.save()
		}
	}()
	err := s.Run(ctx, func(c catalog.Contents) {
		r.publishing.Lock()
		defer r.publishing.Unlock()
		publish(r.admit(c))
	})
	cancel()
	<-done
	return err
}

// retry judges again what was refused. It reports whether the contents are others.
func (r *Registry) retry() (c catalog.Contents, changed bool) {
	r.judging.Lock()
	defer r.judging.Unlock()
	if len(r.waiting) == 0 && len(r.proxies) <= len(r.contents.Proxies) {
		return c, false
	}
	return r.again()
}

// save writes down who holds what, if that is another than before.
func (r *Registry) save() {
	r.judging.Lock()
	var src []byte
	var err error
	unsaved := r.unsaved && r.file != ""
	if unsaved {
		src, err = r.remember()
		r.unsaved = false
	}
	r.judging.Unlock()
	if !unsaved {
		return
	}
	if err == nil {
		err = atomicfile.Replace(r.file, src)
	}
	if err != nil {
		r.log.Error("who holds which address is not remembered", "file", r.file, "err", err)
		r.judging.Lock()
		r.unsaved = true
		r.judging.Unlock()
	}
}
