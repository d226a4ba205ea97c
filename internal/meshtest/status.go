package meshtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Status is what `sallyport status --json` says, as far as tests look at it.
type Status struct {
	PID         int      `json:"pid"`
	TrustDomain string   `json:"trust_domain"`
	Datacenter  string   `json:"datacenter"`
	NotReady    []string `json:"not_ready"`
	Catalog     struct {
		Problems []string `json:"problems"`
	} `json:"catalog"`
	TokenKeys []struct {
		Keys    int    `json:"keys"`
		Problem string `json:"problem"`
	} `json:"token_keys"`
	Proxies []Proxy `json:"proxies"`
}

// Proxy is what the status says of one proxy.
type Proxy struct {
	ID           string    `json:"id"`
	Instance     string    `json:"instance"`
	Connected    bool      `json:"connected"`
	InSync       bool      `json:"in_sync"`
	EnvoyVersion string    `json:"envoy_version"`
	LeafExpires  time.Time `json:"leaf_expires"`
	Warnings     []string  `json:"warnings"`
	BuildError   string    `json:"build_error"`
	LastNACK     *struct {
		Type      string    `json:"type"`
		Resources []string  `json:"resources"`
		Message   string    `json:"message"`
		Time      time.Time `json:"time"`
		Standing  bool      `json:"standing"`
	} `json:"last_nack"`

	text string // all of it, as JSON
}

// UnmarshalJSON reads a proxy and keeps its text.
func (p *Proxy) UnmarshalJSON(b []byte) error {
	type plain Proxy
	if err := json.Unmarshal(b, (*plain)(p)); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := json.Compact(&text, b); err != nil {
		return err
	}
	p.text = text.String()
	return nil
}

// String is all that the status says of the proxy.
func (p Proxy) String() string { return p.text }

// Status asks the control plane for its status.
func (m *Mesh) Status() Status {
	m.t.Helper()
	s, err := m.status()
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// StatusNow is Status, with an error if nobody answers.
func (m *Mesh) StatusNow() (Status, error) { return m.status() }

func (m *Mesh) status() (Status, error) {
	var s Status
	r, err := run(m.client("status", "--json"))
	if err != nil {
		return s, err
	}
	if r.Exit != 0 {
		return s, errors.New(r.Stderr)
	}
	return s, json.Unmarshal([]byte(r.Stdout), &s)
}

// Proxy is the status of a service's sidecar.
func (m *Mesh) Proxy(service string) (Proxy, error) {
	s, err := m.status()
	if err != nil {
		return Proxy{}, err
	}
	for _, p := range s.Proxies {
		if p.Instance == service {
			return p, nil
		}
	}
	return Proxy{}, fmt.Errorf("status knows no sidecar of %s", service)
}

// SaysOf is nil if the status says text of a service's sidecar: among its warnings, refusals or
// errors.
func (m *Mesh) SaysOf(service, text string) error {
	p, err := m.Proxy(service)
	if err != nil {
		return err
	}
	messages := append([]string{p.BuildError}, p.Warnings...)
	if p.LastNACK != nil {
		messages = append(messages, p.LastNACK.Message)
	}
	for _, s := range messages {
		if strings.Contains(s, text) {
			return nil
		}
	}
	return fmt.Errorf("does not say %q: %s", text, p)
}

// AwaitConnected waits until the sidecars of all these services have a stream to the control plane.
func (m *Mesh) AwaitConnected(services ...string) time.Duration {
	m.t.Helper()
	return Await(m.t, "sidecars connected", func() error {
		for _, s := range services {
			p, err := m.Proxy(s)
			if err != nil {
				return err
			}
			if !p.Connected {
				return errors.New(s + " is not connected")
			}
		}
		return nil
	})
}
