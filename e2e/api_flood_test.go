//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// questions are a flood of the HTTP API: what is said on each of so many connections. What comes back is counted by its status.
type questions struct {
	conns int
	say   func(n int) []string // of connection n, one after the other
	slow  bool                 // they are said a second apart
	again bool                 // there is more of it, without an end
	mute  bool                 // nothing is read
}

const askAuthorize = "POST /v1/agent/connect/authorize HTTP/1.1\r\nHost: localhost\r\n"

// floods of the HTTP API by name.
func (f flood) questions() map[string]questions {
	get := func(path, headers string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n"
	}
	roots := "/v1/agent/connect/ca/roots"
	var small strings.Builder
	for n := range 5000 {
		fmt.Fprintf(&small, "%x:\r\n", n)
	}
	fields := small.String()
	token := func(n int) string {
		if len(f.Tokens) == 0 {
			return ""
		}
		return "X-Consul-Token: " + f.Tokens[n%len(f.Tokens)] + "\r\n"
	}
	bodies := []string{
		askAuthorize + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		get(roots, small.String()+small.String()),
		askAuthorize + "Content-Length: 67108864\r\n\r\n" + strings.Repeat(" ", 1<<20),
		askAuthorize + "Content-Encoding: gzip\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("\x1f\x8b\x08\x00", 25_000),
		askAuthorize + fmt.Sprintf("Content-Length: %d\r\n\r\n", 400_000) + strings.Repeat(`{"Target":`, 40_000),
		askAuthorize + fmt.Sprintf("Content-Length: %d\r\n\r\n", 400_000) + strings.Repeat(`[`, 400_000),
		askAuthorize + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\n \r\n", 100_000),
		"GET " + roots + " HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\n \r\n", 1000),
	}
	waits := 4_000
	if f.Time >= time.Minute {
		waits = 34_000
	}
	return map[string]questions{
		"waits":        {conns: waits, say: func(n int) []string { return []string{get(roots+"?index=9000000000000000000&wait=10m", token(n))} }},
		"headers held": {conns: 2000, say: func(int) []string { return []string{"GET / HTTP/1.1\r\nHost: x\r\n" + fields} }},
		"waits with headers": {conns: 1000, say: func(int) []string {
			return []string{get(roots+"?index=9000000000000000000&wait=10m", fields)}
		}},
		"bodies held": {conns: 2000, say: func(int) []string {
			return []string{askAuthorize + "Content-Length: 500000\r\n\r\n{\"Target\":\"" + strings.Repeat("x", 490_000)}
		}},
		"unread": {conns: 200, mute: true, again: true, say: func(int) []string { return []string{strings.Repeat(get(roots+"?pretty", ""), 100)} }},
		"silent": {conns: 8_000, say: func(int) []string { return []string{""} }},
		"idle":   {conns: 8_000, say: func(int) []string { return []string{get("/v1/status/leader", "")} }},
		"slow": {conns: 1000, slow: true, say: func(n int) []string {
			return strings.Split([2]string{get("/v1/status/leader", "X: 1\r\n"), askAuthorize + "Content-Length: 9\r\n\r\n{\"Target\""}[n%2], "")
		}},
		"denied": {conns: 8, again: true, say: func(n int) []string {
			var b strings.Builder
			for i := range 100 {
				b.WriteString(get(fmt.Sprintf("/v1/agent/connect/ca/leaf/%d-%d-%d-%s", n, i, time.Now().UnixNano(), strings.Repeat("x", 3000)), ""))
			}
			return []string{b.String()}
		}},
		// Beside Consul, each with a token of its own.
		"relayed": {conns: 200, again: true, say: func(n int) []string {
			return []string{get(fmt.Sprintf("/v1/health/service/web?filter=Service.ID!=x%d", n), fmt.Sprintf("X-Consul-Token: invented-%d\r\n", n))}
		}},
		"relayed waits": {conns: 1000, say: func(n int) []string {
			return []string{get(fmt.Sprintf("/v1/health/service/web?index=900000000&wait=9m&filter=Service.ID!=x%d", n), fmt.Sprintf("X-Consul-Token: invented-%d\r\n", n))}
		}},
		"invented": {conns: 500, again: true, say: func(n int) []string {
			var b strings.Builder
			for i := range 10 {
				body := `{"Target":"api","ClientCertURI":"` + f.Proxy + `"}`
				fmt.Fprintf(&b, "%sX-Consul-Token: invented-%d-%d-%d\r\nContent-Length: %d\r\n\r\n%s", askAuthorize, n, i, time.Now().UnixNano(), len(body), body)
			}
			return []string{b.String()}
		}},
		"pipelined": {conns: 8, again: true, say: func(int) []string { return []string{strings.Repeat(get("/v1/status/leader", ""), 10_000)} }},
		"large":     {conns: 16, say: func(n int) []string { return []string{bodies[n%len(bodies)]} }},
	}
}

// ask floods the HTTP API with questions until ctx ends. It returns what was answered how often.
func (f flood) ask(ctx context.Context, q questions) map[string]int {
	var mu sync.Mutex
	got := map[string]int{}
	count := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		got[what]++
	}
	var all sync.WaitGroup
	for n := range q.conns {
		all.Go(func() {
			for ctx.Err() == nil {
				err := f.converse(ctx, q, n, count)
				if ctx.Err() == nil && err != nil {
					count(err.Error())
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Second/2 + rand.N(time.Second)):
				}
			}
		})
	}
	all.Wait()
	return got
}

// converse is one connection of a flood.
func (f flood) converse(ctx context.Context, q questions, n int, count func(string)) error {
	conn, err := new(net.Dialer).DialContext(ctx, f.Network, f.Addr)
	if err != nil {
		return errors.New("not connected")
	}
	count("connected")
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	written := make(chan struct{})
	go func() {
		defer close(written)
		say := q.say(n)
		for i := 0; i < len(say); i++ {
			if _, err := io.WriteString(conn, say[i]); err != nil {
				return
			}
			if q.again {
				i, say = -1, q.say(n)
			}
			if !q.slow {
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
	}()
	if q.mute {
		<-written
		return errors.New("cut off")
	}
	r := bufio.NewReader(conn)
	for {
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			_ = conn.Close()
			<-written
			return errors.New("closed")
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		count(answer.Status[:3])
	}
}
