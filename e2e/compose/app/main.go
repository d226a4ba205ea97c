// Command app is the applications of the compose files. What it serves is told by flags, each of which may be given again:
//
//	app -http 127.0.0.1:8080=hello   answers http requests with "hello", and /stream without an end
//	app -echo 127.0.0.1:9000         sends back what it receives over tcp
//	app -relay :8081=127.0.0.1:9191  hands each connection on, byte by byte: how one reaches from outside what the application dials
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sallyport/sallyport/internal/meshtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// run serves what args say until ctx ends.
func run(ctx context.Context, args []string) error {
	var start []func() (io.Closer, error)
	f := flag.NewFlagSet("app", flag.ContinueOnError)
	f.Func("http", "`address=text`: answer http requests with text", func(s string) error {
		addr, text, _ := strings.Cut(s, "=")
		start = append(start, func() (io.Closer, error) {
			s, err := meshtest.ServeHTTP(addr, text+"\n", meshtest.ServeStreams(text+"\n"))
			return closer{s}, err
		})
		return nil
	})
	f.Func("echo", "`address`: send back what is received", func(addr string) error {
		start = append(start, func() (io.Closer, error) {
			s, err := meshtest.ServeEcho(addr, "")
			return closer{s}, err
		})
		return nil
	})
	f.Func("relay", "`address=target`: hand connections on", func(s string) error {
		addr, target, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("expected address=target")
		}
		start = append(start, func() (io.Closer, error) { return relay(ctx, addr, target) })
		return nil
	})
	if err := f.Parse(args); err != nil {
		return err
	}
	for _, s := range start {
		c, err := s()
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
	}
	<-ctx.Done()
	return nil
}

type closer struct{ *meshtest.Server }

func (c closer) Close() error {
	c.Server.Close()
	return nil
}

// relay hands connections to addr on to target until the listener that it returns is closed; those that are open then end with the process.
func relay(ctx context.Context, addr, target string) (io.Closer, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				go hand(ctx, c, target)
			}
		}
	}()
	return l, nil
}

// hand copies both ways. When one side ends, so does the other: what a caller sees is what the sidecar did.
func hand(ctx context.Context, from net.Conn, target string) {
	defer func() { _ = from.Close() }()
	to, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		return
	}
	defer func() { _ = to.Close() }()
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() {
			_, _ = io.Copy(way[1], way[0])
			done <- struct{}{}
		}()
	}
	<-done
}
