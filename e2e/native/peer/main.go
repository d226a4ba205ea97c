// Command peer is an application that takes part in the mesh by package connect, for the tests of the directory above. It is started with the
// name of its service, prints "listening ADDRESS" when it is ready and echoes there what peers send, and answers lines:
//
//	ready        true or false
//	dial NAME N  dials NAME N times, one after the other, each time with a ping; answered by how often that failed, how many µs all took, and the
//	             last failure
//	hold NAME    dials NAME and keeps the connection, with a ping ten times a second; answered by "ok", or by why it failed
//	ended        how many of those connections have ended, and why the last one did
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/connect"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(service string) error {
	ctx := context.Background()
	svc, err := connect.NewService(ctx, service, connect.Options{})
	if err != nil {
		return err
	}
	defer svc.Close()
	if err := svc.ReadyWait(ctx); err != nil {
		return err
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	listener := tls.NewListener(l, svc.ServerTLSConfig())
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	fmt.Println("listening", l.Addr())
	dial := func(name string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		conn, err := svc.Dial(ctx, name)
		if err != nil {
			return nil, err
		}
		return conn, ping(conn)
	}
	var ends ends
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 1 && words[0] == "ready":
			fmt.Println(svc.Ready())
		case len(words) == 3 && words[0] == "dial":
			n, err := strconv.Atoi(words[2])
			if err != nil {
				return err
			}
			fmt.Print(repeat(n, func() error {
				conn, err := dial(words[1])
				if conn != nil {
					defer conn.Close()
				}
				return err
			}))
		case len(words) == 2 && words[0] == "hold":
			conn, err := dial(words[1])
			if err != nil {
				fmt.Println(oneLine(err))
				continue
			}
			fmt.Println("ok")
			go ends.hold(conn)
		case len(words) == 1 && words[0] == "ended":
			fmt.Println(ends.String())
		default:
			return fmt.Errorf("what is %q?", lines.Text())
		}
	}
	return lines.Err()
}

func ping(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 4))
	return err
}

// repeat does it n times, one after the other, and says how often it failed, how long all took, and why it failed last.
func repeat(n int, do func() error) string {
	failed, began := 0, time.Now()
	var last error
	for range n {
		if err := do(); err != nil {
			failed++
			last = err
		}
	}
	took := time.Since(began)
	return fmt.Sprintln(failed, took.Microseconds(), oneLine(last))
}

func oneLine(err error) string { return strings.ReplaceAll(fmt.Sprint(err), "\n", " ") }

// ends are the ends of connections that are held.
type ends struct {
	mu   sync.Mutex
	n    int
	last error
}

// hold keeps a connection until it ends.
func (e *ends) hold(conn net.Conn) {
	defer conn.Close()
	for {
		err := ping(conn)
		if err == nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.n, e.last = e.n+1, err
		return
	}
}

func (e *ends) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return fmt.Sprint(e.n, " ", oneLine(e.last))
}
