package api

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/connlimit"
)

// speak says something on a connection of its own, and returns the connection and the status that comes; 0: none within the time.
func (r *rig) speak(t *testing.T, d time.Duration, words ...string) (net.Conn, int) {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	for _, w := range words {
		if _, err := io.WriteString(c, w); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(d))
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return c, 0
	}
	_ = answer.Body.Close()
	return c, answer.StatusCode
}

func (s *shares) awaitUsed(t *testing.T, want int64) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); s.used() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d are in use, want %d", s.used(), want)
		}
	}
}

// TestUnfinished: requests whose header does not come at once are few; the others are not touched, and room comes back.
func TestUnfinished(t *testing.T) {
	r := start(t)
	part := "GET /v1/agent/connect/ca/roots HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 900)
	var held []net.Conn
	for n := range mostUnfinishedOfPeer {
		c, code := r.speak(t, 10*time.Millisecond, part)
		if code != 0 {
			t.Fatalf("number %d: %d", n, code)
		}
		held = append(held, c)
	}
	r.unfinished[0].awaitUsed(t, mostUnfinishedOfPeer)
	if _, code := r.speak(t, 20*time.Second, part); code != http.StatusTooManyRequests {
		t.Errorf("one more: %d", code)
	}
	if a := r.ask(t, "GET", "/v1/agent/connect/ca/roots", "", ""); a.code != http.StatusOK {
		t.Errorf("meanwhile: %d %s", a.code, a.body)
	}
	for _, c := range held {
		_ = c.Close()
	}
	r.unfinished[0].awaitUsed(t, 0)
	for range 3 * mostUnfinishedOfPeer { // finished ones give their share back
		c, code := r.speak(t, 20*time.Second, "GET /v1/agent/connect/ca/roots HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 9000)+"\r\n\r\n")
		if code != http.StatusOK {
			t.Fatalf("a header of 9 KB: %d", code)
		}
		defer c.Close()
	}
	r.unfinished[0].awaitUsed(t, 0)
	if _, code := r.speak(t, 20*time.Second, "GET /v1/agent/connect/ca/roots HTTP/1.1\r\nHost: x\r\n"+strings.Repeat("A: b\r\n", 101)+"\r\n"); code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("101 fields: %d", code)
	}
	if a := r.ask(t, "GET", "/v1/agent/connect/ca/roots?"+strings.Repeat("a&", 101), "", ""); a.code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("101 parameters: %d", a.code)
	}
}

// TestLargeBodies: bodies that are large and do not come are few.
func TestLargeBodies(t *testing.T) {
	r := start(t)
	head := "POST /v1/agent/connect/authorize HTTP/1.1\r\nHost: x\r\n"
	var held []net.Conn
	for n := range mostLargeOfPeer {
		c, code := r.speak(t, 5*time.Millisecond, head, [2]string{"Content-Length: 5000\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n"}[n%2])
		if code != 0 {
			t.Fatalf("number %d: %d", n, code)
		}
		held = append(held, c)
	}
	r.large.awaitUsed(t, mostLargeOfPeer)
	if _, code := r.speak(t, 20*time.Second, head, "Content-Length: 5000\r\n\r\n{"); code != http.StatusTooManyRequests {
		t.Errorf("one more: %d", code)
	}
	if a := r.ask(t, "POST", "/v1/agent/connect/authorize", "api", fmt.Sprintf(`{"Target":"api","ClientCertURI":"spiffe://%s/ns/default/dc/dc1/svc/web"}`, trustDomain.Name())); a.code != http.StatusOK {
		t.Errorf("meanwhile: %d %s", a.code, a.body)
	}
	for _, c := range held {
		_ = c.Close()
	}
	r.large.awaitUsed(t, 0)
}

// TestUnread: who does not read its answer is cut off.
func TestUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer func() { _ = theirs.Close() }()
		c := &conn{Conn: &connlimit.Conn{Conn: ours}}
		for range 3 {
			go func() { _, _ = io.ReadFull(theirs, make([]byte, 5)) }()
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(writeTime)
		}
		began := time.Now()
		if _, err := c.Write([]byte("hello")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > renewDeadline+writeTime {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// TestSlowHeader: a header that does not end ends its connection.
func TestSlowHeader(t *testing.T) {
	t.Parallel() // it waits for 10 s
	r := start(t)
	began := time.Now()
	c, _ := r.speak(t, time.Millisecond, "GET / HTTP/1.1\r\nHost: x\r\n")
	_ = c.SetReadDeadline(time.Now().Add(3 * headerTime))
	if b, err := io.ReadAll(c); err != nil || time.Since(began) < headerTime/2 {
		t.Errorf("%q, %v after %v", b, err, time.Since(began))
	}
	r.unfinished[0].awaitUsed(t, 0)
}
