package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"
)

// rawConn is a client of one HTTP connection that costs next to nothing: it sends requests that were written before, and of an answer
// reads what says where it ends. net/http's own client is half of what it measures of a server nearby.
type rawConn struct {
	net.Conn
	r     *bufio.Reader
	body  []byte // of the last answer, until the next
	code  int
	index uint64 // X-Consul-Index; 0: there was none
}

// dialRaw connects as the user uid; 0: as this process's.
func dialRaw(ctx context.Context, network, address string, uid int) (*rawConn, error) {
	c, err := dialAs(ctx, uid, network, address)
	for errors.Is(err, syscall.EAGAIN) { // the server has not come to accept thousands
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		c, err = dialAs(ctx, uid, network, address)
	}
	if err != nil {
		return nil, err
	}
	return &rawConn{Conn: c, r: bufio.NewReaderSize(c, 4096)}, nil
}

// rawRequest is a request as rawConn sends it.
func rawRequest(method, path, token, body string) []byte {
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path)
	if token != "" {
		b = fmt.Appendf(b, "X-Consul-Token: %s\r\n", token)
	}
	if method != "GET" {
		b = fmt.Appendf(b, "Content-Length: %d\r\n", len(body))
	}
	return append(append(b, "\r\n"...), body...)
}

// exchange sends a request and reads its answer.
func (c *rawConn) exchange(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	return c.read()
}

// line is the next line without its end.
func (c *rawConn) line() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}

// read reads one answer.
func (c *rawConn) read() error {
	line, err := c.line()
	if err != nil {
		return err
	}
	const version = len("HTTP/1.1 ")
	if len(line) < version+3 {
		return fmt.Errorf("an answer begins with %q", line)
	}
	if c.code, err = strconv.Atoi(string(line[version : version+3])); err != nil {
		return fmt.Errorf("an answer begins with %q", line)
	}
	c.index = 0
	length, chunked := 0, false
	for {
		if line, err = c.line(); err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch string(name) {
		case "Content-Length":
			length, err = strconv.Atoi(string(value))
		case "X-Consul-Index":
			c.index, err = strconv.ParseUint(string(value), 10, 64)
		case "Transfer-Encoding":
			chunked = true
		}
		if err != nil {
			return fmt.Errorf("header %q: %w", line, err)
		}
	}
	c.body = c.body[:0]
	if !chunked {
		return c.take(length)
	}
	for {
		if line, err = c.line(); err != nil {
			return err
		}
		n, err := strconv.ParseUint(string(line), 16, 31)
		if err != nil {
			return fmt.Errorf("a chunk's length: %w", err)
		}
		if err := c.take(int(n)); err != nil {
			return err
		}
		if _, err := c.line(); err != nil { // after each chunk, and after the trailers, of which there are none
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// take reads n bytes more of the body.
func (c *rawConn) take(n int) error {
	have := len(c.body)
	c.body = append(c.body, make([]byte, n)...)
	_, err := io.ReadFull(c.r, c.body[have:])
	return err
}
