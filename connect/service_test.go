package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/connect/internal/apitest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestTwoServices(t *testing.T) {
	a := apitest.New(t)
	web, api := pair(t, a, Options{})
	conn, err := web.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := ping(conn); err != nil {
		t.Fatal(err)
	}
	state := conn.ConnectionState()
	peer, err := Peer(state)
	if err != nil || peer.String() != apitest.ID("api") || state.Version != tls.VersionTLS13 {
		t.Errorf("the peer is %s (%v), TLS %x", peer, err, state.Version)
	}
	if !web.Ready() || !api.Ready() {
		t.Error("not ready, although leafs hang under an intermediate whose root is known")
	}
	svid, err := api.SVID()
	if err != nil || svid.ID.String() != apitest.ID("api") || len(svid.Certificates) != 2 {
		t.Errorf("SVID: %v, %v", svid, err)
	}
	roots, err := api.Roots()
	if err != nil || len(roots.X509Authorities()) != 1 || roots.TrustDomain().Name() != apitest.Domain {
		t.Errorf("roots: %v, %v", roots, err)
	}

	a.Deny("web", "api")
	if err := reach(t, web, "api"); err == nil {
		t.Error("connected although it is denied")
	}
	if err := ping(conn); err != nil {
		t.Errorf("without EndOnRevocation the connection ended: %v", err)
	}
	a.Allow("web", "api")
	if err := reach(t, web, "api"); err != nil {
		t.Error(err)
	}
}

// TestRefused has what comes in be refused, and be refused for that reason.
func TestRefused(t *testing.T) {
	a := apitest.New(t)
	stranger := apitest.NewRoot(t)
	web := apitest.ID("web")
	tests := map[string]struct {
		signer *apitest.Authority // nil: the API's
		id     string
		change func(*x509.Certificate)
		answer http.HandlerFunc // of the API, while it connects
		want   string           // empty: let in
	}{
		"let in":                {id: web},
		"denied":                {id: apitest.ID("evil"), want: "denied"},
		"foreign root":          {signer: stranger, id: web, want: "unknown authority"},
		"foreign trust domain":  {id: strings.Replace(web, apitest.Domain, "other.consul", 1), want: "bundle"},
		"not a service":         {id: "spiffe://" + apitest.Domain + "/agent/client/dc/dc1/id/node", want: "not the ID of a service"},
		"with a partition":      {id: "spiffe://" + apitest.Domain + "/ap/x/ns/default/dc/dc1/svc/web", want: "not the ID of a service"},
		"expired":               {id: web, change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, want: "expired"},
		"for servers alone":     {id: web, change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, want: "not meant for this side"},
		"two names":             {id: web, change: func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, want: "more than one URI"},
		"a CA":                  {id: web, change: func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }, want: "CA flag"},
		"the API fails":         {id: web, answer: status(500, "No known Consul servers"), want: "500 No known Consul servers"},
		"the API denies us":     {id: web, answer: status(403, "Permission denied"), want: "403 Permission denied: give CONSUL_HTTP_TOKEN"},
		"the API is away":       {id: web, answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: "EOF"},
		"no JSON":               {id: web, answer: status(200, "yes"), want: "authorize: invalid character"},
		"an answer about else":  {id: web, answer: status(200, `{"Reason":"x"}`), want: "does not say whether"},
		"null":                  {id: web, answer: status(200, `null`), want: "does not say whether"},
		"a word instead of yes": {id: web, answer: status(200, `{"Authorized":"true"}`), want: "cannot unmarshal"},
		"elsewhere": {id: web, answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, want: "307"},
	}
	judged := make(chan error, 100)
	api := start(t, a.Serve(), "api", Options{Metrics: Metrics{Judged: func(_ spiffeid.ID, err error, _ time.Duration) { judged <- err }}})
	address := echo(t, api.ServerTLSConfig())
	a.Deny("evil", "api")
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			signer := tt.signer
			if signer == nil {
				signer = a.Signer()
			}
			leaf := signer.Leaf(tt.id, tt.change)
			pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
			if err != nil {
				t.Fatal(err)
			}
			a.Answer(tt.answer)
			defer a.Answer(nil)
			conn, err := tls.Dial("tcp", address, &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true})
			if err == nil {
				err = ping(conn)
				conn.Close()
			}
			reason := <-judged
			if (err == nil) != (tt.want == "") || (reason == nil) != (tt.want == "") {
				t.Fatalf("client: %v, server: %v, want %q", err, reason, tt.want)
			}
			if reason != nil && !strings.Contains(reason.Error(), tt.want) {
				t.Errorf("refused because of %v, want %q", reason, tt.want)
			}
		})
	}
	t.Run("no certificate", func(t *testing.T) {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			err = ping(conn)
			conn.Close()
		}
		if err == nil {
			t.Error("let in")
		}
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		if _, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
			t.Error("let in")
		}
	})
}

func status(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = w.Write([]byte(text))
	}
}

// TestNoResumption has a client that keeps its sessions be judged each time, with both versions.
func TestNoResumption(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			a := apitest.New(t)
			api := start(t, a.Serve(), "api", Options{AllowTLS12: true})
			address := echo(t, api.ServerTLSConfig())
			leaf := a.Signer().Leaf(apitest.ID("web"), nil)
			pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
			if err != nil {
				t.Fatal(err)
			}
			config := &tls.Config{
				Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, MaxVersion: version,
				ClientSessionCache: tls.NewLRUClientSessionCache(10), ServerName: "api",
			}
			dial := func() error {
				conn, err := tls.Dial("tcp", address, config)
				if err != nil {
					return err
				}
				defer conn.Close()
				if conn.ConnectionState().DidResume {
					t.Error("a session was resumed")
				}
				return ping(conn)
			}
			for range 3 {
				if err := dial(); err != nil {
					t.Fatal(err)
				}
			}
			if n := a.Asked("/v1/agent/connect/authorize"); n != 3 {
				t.Errorf("judged %d times of 3", n)
			}
			a.Deny("web", "api")
			if err := dial(); err == nil {
				t.Error("let in after the denial")
			}
		})
	}
}

// TestDialWrong has what answers be somebody else, or nobody.
func TestDialWrong(t *testing.T) {
	a := apitest.New(t)
	address := a.Serve()
	web := start(t, address, "web", Options{})
	serve := func(id string, change func(*x509.Certificate)) string {
		leaf := a.Signer().Leaf(id, change)
		pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
		if err != nil {
			t.Fatal(err)
		}
		return echo(t, &tls.Config{Certificates: []tls.Certificate{pair}})
	}
	const nobody = "127.0.0.1:1"
	api := apitest.ID("api")
	good := serve(api, nil)
	tests := map[string]struct {
		addresses []string
		want      string
	}{
		"good":                 {[]string{good}, ""},
		"other case":           {[]string{serve(apitest.ID("API"), nil)}, ""},
		"one of two is away":   {[]string{nobody, good}, ""},
		"nobody there":         {[]string{nobody}, "connection refused"},
		"both away":            {[]string{nobody, nobody}, "connection refused"},
		"no instance":          {nil, "no healthy instance of api"},
		"another service":      {[]string{serve(apitest.ID("x"), nil)}, "is " + apitest.ID("x") + ", not " + api},
		"another datacenter":   {[]string{serve(strings.Replace(api, "dc1", "dc2", 1), nil)}, "another service"},
		"another namespace":    {[]string{serve(strings.Replace(api, "default", "other", 1), nil)}, "another service"},
		"foreign trust domain": {[]string{serve(strings.Replace(api, apitest.Domain, "other.consul", 1), nil)}, "bundle"},
		"for clients alone":    {[]string{serve(api, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })}, "not meant for this side"},
		"plain TCP":            {[]string{plain(t)}, "first record does not look like a TLS handshake"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a.Register("api", tt.addresses...)
			for range 5 { // one of two is chosen
				err := reach(t, web, "api")
				switch {
				case tt.want == "" && err != nil:
					t.Error(err)
				case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
					t.Errorf("got %v, want %q", err, tt.want)
				}
			}
		})
	}
	a.Register("api")
	if _, err := web.Dial(t.Context(), "api"); !errors.Is(err, ErrNoInstance) {
		t.Errorf("got %v, want ErrNoInstance", err)
	}
	a.RegisterIn("dc2", "api", serve(strings.Replace(api, "dc1", "dc2", 1), nil))
	if err := reach(t, web, "api.service.dc2.consul"); err != nil {
		t.Error(err)
	}
	if err := reach(t, web, "a b"); err == nil || !strings.Contains(err.Error(), "not the name of a service") {
		t.Errorf("got %v", err)
	}
}

// plain is a server that answers without TLS.
func plain(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("SSH-2.0-x\r\n"))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func TestRotation(t *testing.T) {
	a := apitest.New(t)
	web, api := pair(t, a, Options{})
	var dials atomic.Int64
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := reach(t, web, "api"); err != nil {
				t.Error(err)
			}
			dials.Add(1)
		}
	}()
	for n := range 3 {
		a.Rotate()
		awaitRoots(t, n+2, web, api)
		a.Renew()
		for _, s := range []*Service{web, api} {
			await(t, "a leaf under the new root", func() error {
				roots, err := s.Roots()
				if err != nil {
					return err
				}
				svid, err := s.SVID()
				if err != nil {
					return err
				}
				return svid.Certificates[1].CheckSignatureFrom(roots.X509Authorities()[n+1])
			})
		}
		for from := dials.Load(); dials.Load() < from+2; {
			time.Sleep(time.Millisecond)
		}
	}
	close(stop)
	<-done
	if !web.Ready() || !api.Ready() {
		t.Error("not ready")
	}
}

func awaitRoots(t *testing.T, n int, services ...*Service) {
	t.Helper()
	for _, s := range services {
		await(t, "roots", func() error {
			r, err := s.Roots()
			if err == nil && len(r.X509Authorities()) != n {
				err = fmt.Errorf("there are %d, not %d", len(r.X509Authorities()), n)
			}
			return err
		})
	}
}

// TestAPIAway has the API go and come back.
func TestAPIAway(t *testing.T) {
	a := apitest.New(t)
	web, api := pair(t, a, Options{})
	conn, err := web.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := ping(conn); err != nil {
		t.Fatal(err)
	}
	id, err := api.SVID()
	if err != nil {
		t.Fatal(err)
	}
	a.Down()
	if _, err := web.Dial(t.Context(), "api"); err == nil || !strings.Contains(err.Error(), "nobody says where instances of api are") {
		t.Errorf("got %v", err)
	}
	// Whoever knows where it is gets through the handshake, and no further.
	raw, err := net.Dial("tcp", conn.RemoteAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := web.Handshake(t.Context(), raw, id.ID); err == nil {
		err = ping(c)
		c.Close()
		if err == nil {
			t.Error("let in although nobody says whether")
		}
	}
	if err := ping(conn); err != nil {
		t.Errorf("the connection ended: %v", err)
	}
	if !web.Ready() || !api.Ready() {
		t.Error("not ready, although all is there")
	}
	a.Up()
	if err := reach(t, web, "api"); err != nil {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	a := apitest.New(t)
	web, api := pair(t, a, Options{})
	conn, err := web.Dial(t.Context(), "api")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	address := conn.RemoteAddr().String()
	for range 2 {
		if err := web.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := ping(conn); err != nil {
		t.Errorf("the connection ended: %v", err)
	}
	if _, err := web.Dial(t.Context(), "api"); !errors.Is(err, ErrClosed) {
		t.Errorf("Dial: %v, want ErrClosed", err)
	}
	if err := web.ReadyWait(t.Context()); !errors.Is(err, ErrClosed) || web.Ready() {
		t.Errorf("ReadyWait: %v, want ErrClosed", err)
	}
	_ = api.Close()
	leaf := a.Signer().Leaf(apitest.ID("web"), nil)
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.Dial("tcp", address, &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true}); err == nil {
		t.Error("a closed service accepts connections")
	}
}

// TestContextEnds has the service end with its context.
func TestContextEnds(t *testing.T) {
	a := apitest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := NewService(ctx, "web", Options{Address: a.Serve()})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.ReadyWait(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	s.Close()
}

// TestNotReadyLater has the reason be that of the end of the wait, not of its beginning.
func TestNotReadyLater(t *testing.T) {
	a := apitest.New(t)
	release := make(chan struct{})
	a.Answer(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		status(403, "Permission denied")(w, nil)
	})
	s := launch(t, a.Serve(), "web", Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	time.AfterFunc(100*time.Millisecond, func() { close(release) })
	if err := s.ReadyWait(ctx); err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("got %v", err)
	}
}

// TestNotReady says what is missing.
func TestNotReady(t *testing.T) {
	a := apitest.New(t)
	foreign := apitest.NewRoot(t)
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		leaf   *apitest.Leaf
		want   []string
	}{
		"denied":          {answer: status(403, "Permission denied"), want: []string{"there is no certificate", "403 Permission denied", "service:write"}},
		"no JSON":         {answer: status(200, "<html>"), want: []string{"there is no certificate", "leaf: invalid character", "roots: invalid character"}},
		"foreign":         {leaf: new(foreign.Leaf(apitest.ID("web"), nil)), want: []string{"its certificate is not good", "unknown authority"}},
		"another service": {leaf: new(a.Signer().Leaf(apitest.ID("api"), nil)), want: []string{"it is for " + apitest.ID("api") + ", not for web"}},
		"expired":         {leaf: new(a.Signer().Leaf(apitest.ID("web"), func(c *x509.Certificate) { c.NotAfter = time.Now() })), want: []string{"expired"}},
		"no key":          {leaf: &apitest.Leaf{CertPEM: foreign.Leaf(apitest.ID("web"), nil).CertPEM}, want: []string{"leaf: tls: failed to find any PEM data in key input"}},
	} {
		t.Run(name, func(t *testing.T) {
			a.Answer(tt.answer)
			if tt.leaf != nil {
				a.SetLeaf("web", *tt.leaf)
			}
			s := launch(t, a.Serve(), "web", Options{})
			var err error
			await(t, "the reason", func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				defer cancel()
				if err = s.ReadyWait(ctx); err == nil {
					t.Fatal("ready")
				}
				for _, w := range tt.want {
					if !strings.Contains(err.Error(), w) {
						return err
					}
				}
				return nil
			})
			if !errors.Is(err, context.DeadlineExceeded) || s.Ready() {
				t.Errorf("%v, ready: %t", err, s.Ready())
			}
		})
	}
}
