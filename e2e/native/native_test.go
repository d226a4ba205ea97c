//go:build e2e

package native

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/connect"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	allow = "allow"
	deny  = "deny"
)

// TestIntentions has an intention allow and deny: the next handshake, and with EndOnRevocation the connections that are open.
func TestIntentions(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	var denials atomic.Int64
	api := service(t, c.Addr, "api", connect.Options{
		EndOnRevocation: true, RevocationInterval: time.Hour,
		Metrics: connect.Metrics{Judged: func(_ spiffeid.ID, err error, _ time.Duration) {
			if errors.Is(err, connect.ErrDenied) {
				denials.Add(1)
			}
		}},
	})
	web := service(t, c.Addr, "web", connect.Options{})
	register(t, c, "api", echo(t, api))
	meshtest.Await(t, "api in the catalog", func() error {
		_, err := web.Dial(t.Context(), "api")
		return err
	})
	if err := reach(t.Context(), web, "api"); err == nil {
		t.Error("let in by the default, which denies")
	}
	if denials.Load() == 0 {
		t.Error("the default's denial is none to connect")
	}
	for round := range 3 {
		c.Intend("api", meshtest.Intentions{"web": allow})
		var conn net.Conn
		meshtest.Await(t, "allowed", func() (err error) {
			if conn, err = web.Dial(t.Context(), "api"); err != nil {
				return err
			}
			if err = ping(conn); err != nil {
				conn.Close()
			}
			return err
		})
		defer conn.Close()
		meshtest.Holds(t, "an allowed connection", 300*time.Millisecond, func() error { return ping(conn) })
		if !web.Ready() || !api.Ready() {
			t.Error("not ready")
		}
		c.Intend("api", meshtest.Intentions{"web": deny})
		took := ended(t, conn)
		figure(t, "round=%d ended_after_the_denial=%s", round, took.Round(time.Millisecond))
		meshtest.Holds(t, "denied", 300*time.Millisecond, func() error {
			if err := reach(t.Context(), web, "api"); err == nil {
				return errors.New("let in")
			}
			return nil
		})
	}
	c.Intend("api", meshtest.Intentions{"web": allow})
	meshtest.Await(t, "api by another spelling", func() error { return reach(t.Context(), web, "API.service.dc1.consul") })
	if err := reach(t.Context(), web, "nobody"); !errors.Is(err, connect.ErrNoInstance) {
		t.Errorf("nobody: %v", err)
	}
	if err := reach(t.Context(), web, "api.service.dc9.consul"); err == nil || !strings.Contains(err.Error(), "No path to datacenter") {
		t.Errorf("another datacenter: %v", err)
	}
	// What has the address of api is another service by now.
	other := service(t, c.Addr, "other", connect.Options{})
	register(t, c, "api", echo(t, other))
	meshtest.Await(t, "another service refused", func() error {
		if err := reach(t.Context(), web, "api"); !errors.Is(err, connect.ErrWrongPeer) {
			return err
		}
		return nil
	})
}

// TestRotation has the root change under dials, of which none may fail.
func TestRotation(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	api := service(t, c.Addr, "api", connect.Options{EndOnRevocation: true})
	web := service(t, c.Addr, "web", connect.Options{EndOnRevocation: true})
	register(t, c, "api", echo(t, api))
	c.Intend("api", meshtest.Intentions{"web": allow})
	meshtest.Await(t, "allowed", func() error { return reach(t.Context(), web, "api") })
	held, err := web.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := ping(held); err != nil {
		t.Fatal(err)
	}
	var dials, failed atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := reach(t.Context(), web, "api"); err != nil { //nolint:contextcheck // the end of the loop ends no dial
				failed.Add(1)
				t.Errorf("a dial while the root changes: %v", err)
			}
			dials.Add(1)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	for _, kind := range []map[string]any{{"PrivateKeyType": "ec", "PrivateKeyBits": 384}, {"PrivateKeyType": "rsa", "PrivateKeyBits": 2048}} {
		services := []*connect.Service{web, api}
		var olds []*x509svid.SVID
		for _, s := range services {
			old, err := s.SVID()
			if err != nil {
				t.Fatal(err)
			}
			olds = append(olds, old)
		}
		c.RotateRoot("consul", kind)
		for i, s := range services {
			// Consul takes up to half a minute, to spread the leafs.
			if _, err := meshtest.Within(90*time.Second, func() error {
				if now, err := s.SVID(); err != nil || now == olds[i] {
					return errors.New("the old leaf")
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if !s.Ready() {
				t.Error("not ready under the new root")
			}
		}
		if err := ping(held); err != nil {
			t.Errorf("a connection that was open: %v", err)
		}
	}
	cancel()
	<-done
	figure(t, "dials=%d failed=%d roots=3", dials.Load(), failed.Load())
}

// TestAgentAway has the agent be killed and come back with its data.
func TestAgentAway(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	api := service(t, c.Addr, "api", connect.Options{EndOnRevocation: true, RevocationInterval: 100 * time.Millisecond})
	web := service(t, c.Addr, "web", connect.Options{EndOnRevocation: true})
	address := echo(t, api)
	register(t, c, "api", address)
	c.Intend("api", meshtest.Intentions{"web": allow})
	meshtest.Await(t, "allowed", func() error { return reach(t.Context(), web, "api") })
	held, err := web.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := ping(held); err != nil {
		t.Fatal(err)
	}
	svid, err := api.SVID()
	if err != nil {
		t.Fatal(err)
	}
	c.Kill()
	if err := reach(t.Context(), web, "api"); err == nil || !strings.Contains(err.Error(), "nobody says where instances of api are") {
		t.Errorf("dial without an agent: %v", err)
	}
	// Who knows the address comes no further.
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := web.Handshake(t.Context(), raw, svid.ID); err == nil {
		err = ping(conn)
		conn.Close()
		if err == nil {
			t.Error("let in without an agent")
		}
	}
	meshtest.Holds(t, "the open connection", 2*time.Second, func() error { return ping(held) })
	if !web.Ready() || !api.Ready() {
		t.Error("not ready, although all is there")
	}
	c.Start()
	took := meshtest.Await(t, "dials again", func() error { return reach(t.Context(), web, "api") })
	figure(t, "dials_after_ready=%s", took.Round(time.Millisecond))
	if err := ping(held); err != nil {
		t.Errorf("the open connection: %v", err)
	}
	c.Intend("api", meshtest.Intentions{"web": deny})
	ended(t, held)
}

// TestTokens has ACLs: services have tokens of their own, one of which is exchanged in its file.
func TestTokens(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Management: "11111111-2222-3333-4444-555555555555"})
	accessor, old := c.ServiceToken("api")
	_, webs := c.ServiceToken("web")
	file := filepath.Join(t.TempDir(), "token")
	write := func(secret string) {
		if err := os.WriteFile(file+".new", []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write(old)
	var forbidden atomic.Int64
	api := service(t, c.Addr, "api", connect.Options{
		TokenFile: file, EndOnRevocation: true, RevocationInterval: time.Hour,
		Metrics: connect.Metrics{Asked: func(question string, err error, _ time.Duration) {
			if question == "intentions" && err != nil {
				forbidden.Add(1)
			}
		}},
	})
	web := service(t, c.Addr, "web", connect.Options{Token: webs})
	register(t, c, "api", echo(t, api))
	c.Intend("api", meshtest.Intentions{"web": allow})
	meshtest.Await(t, "allowed", func() error { return reach(t.Context(), web, "api") })
	held, err := web.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := ping(held); err != nil {
		t.Fatal(err)
	}
	if n := forbidden.Load(); n > 0 {
		t.Errorf("the service's token may not read the intentions about it: %d refusals", n)
	}

	// Nobody's token is no token.
	nobody, err := connect.NewService(t.Context(), "never", connect.Options{Address: c.Addr, Token: webs, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := nobody.ReadyWait(ctx); err == nil || !strings.Contains(err.Error(), "service:write on this service") {
		t.Errorf("another service's token: %v", err)
	}

	c.DeleteToken(accessor)
	meshtest.Await(t, "refused with a token that was deleted", func() error {
		if reach(t.Context(), web, "api") == nil {
			return errors.New("let in")
		}
		return nil
	})
	if err := ping(held); err != nil {
		t.Errorf("the connection ended, although nobody denied it: %v", err)
	}
	_, fresh := c.ServiceToken("api")
	write(fresh)
	took := meshtest.Await(t, "let in with the new token", func() error { return reach(t.Context(), web, "api") })
	figure(t, "token_exchanged_after=%s", took.Round(time.Millisecond))
	c.Intend("api", meshtest.Intentions{"web": deny})
	figure(t, "ended_after_the_denial=%s", ended(t, held).Round(time.Millisecond))
}
