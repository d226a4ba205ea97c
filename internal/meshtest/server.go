package meshtest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Server is an application: what a sidecar protects. It counts who came.
type Server struct {
	// Addr is where it listens: "127.0.0.1:34567".
	Addr string
	// Dials counts the connections accepted, Bytes what they sent (tcp), Requests the requests
	// (http).
	Dials, Bytes, Requests atomic.Int64

	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]bool // nil when closed
	wg       sync.WaitGroup
	http     *http.Server
}

// Port is the port of Addr.
func (s *Server) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// Host is the address of Addr without its port.
func (s *Server) Host() string { return s.listener.Addr().(*net.TCPAddr).IP.String() }

// Close ends the server and its connections and waits for them. It may be called twice.
func (s *Server) Close() {
	s.listener.Close()
	if s.http != nil {
		s.http.Close()
	}
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()
}

// ServeEcho starts a tcp server that sends banner, then whatever it receives, back to who sent it.
// addr is host:port; port 0 is any.
func ServeEcho(addr, banner string) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: l.Addr().String(), listener: l, conns: map[net.Conn]bool{}}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			s.Dials.Add(1)
			if !s.track(c) {
				c.Close()
				return
			}
			s.wg.Go(func() {
				defer s.untrack(c)
				if _, err := io.WriteString(c, banner); err == nil {
					_, _ = io.Copy(c, io.TeeReader(c, counter{&s.Bytes}))
				}
			})
		}
	})
	return s, nil
}

func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns != nil {
		s.conns[c] = true
	}
	return s.conns != nil
}

func (s *Server) untrack(c net.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// ServeHTTP starts an http server, HTTP/1.1 and HTTP/2 without TLS, whose handler is h; nil answers
// every request with 200 and body, and shows in the header "seen-xfcc" what x-forwarded-client-cert
// it was sent.
func ServeHTTP(addr, body string, h http.Handler) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: l.Addr().String()}
	s.listener = countingListener{l, &s.Dials}
	if h == nil {
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Seen-Xfcc"] = r.Header["X-Forwarded-Client-Cert"]
			_, _ = io.WriteString(w, body)
		})
	}
	s.http = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Requests.Add(1)
		h.ServeHTTP(w, r)
	})}
	s.http.Protocols = new(http.Protocols)
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetUnencryptedHTTP2(true)
	s.wg.Go(func() { _ = s.http.Serve(s.listener) })
	return s, nil
}

type countingListener struct {
	net.Listener
	n *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}
