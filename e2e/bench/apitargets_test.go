package main

import (
	"bufio"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAPIRows: a figure is compared with what the other server took in the same rounds, more answers a second are better and longer ones
// worse, and what was not measured is never said to be met.
func TestAPIRows(t *testing.T) {
	took := func(micros ...int) *apiFigures {
		f := &apiFigures{}
		for _, n := range micros {
			f.p50 = append(f.p50, time.Duration(n)*time.Microsecond)
		}
		f.p99, f.each = f.p50, f.p50
		return f
	}
	for name, c := range map[string]struct {
		targets []apiTarget
		all     map[string]*apiFigures
		want    []string // value and verdict of each row: from files, beside Consul
	}{
		"all there": {
			questionOne,
			map[string]*apiFigures{byFiles: took(50), byBeside: took(70), byNothing: took(40), byConsul: took(100)},
			[]string{"50.0 µs met", "70.0 µs MISSED"},
		},
		"no Consul": {
			questionOne, map[string]*apiFigures{byFiles: took(50), byNothing: took(40)}, []string{"50.0 µs " + unmeasured, "– " + unmeasured},
		},
		"each in its own round, of which the first was on a busy machine": {
			questionOne,
			map[string]*apiFigures{byFiles: took(5000, 50, 50), byBeside: took(50, 90, 90), byNothing: took(1, 1, 1), byConsul: took(9000, 100, 100)},
			[]string{"50.0 µs met", "90.0 µs MISSED"},
		},
		"of the server that does nothing, Consul or not": {
			authorizeOne[:1], map[string]*apiFigures{byFiles: took(50), byNothing: took(40)}, []string{"50.0 µs met", "– " + unmeasured},
		},
		"throughput": {
			authorizeMany,
			map[string]*apiFigures{byFiles: took(50), byBeside: took(20), byNothing: took(39), byConsul: took(50)},
			[]string{"20.0 k/s MISSED", "20.0 k/s MISSED", "50.0 k/s met", "50.0 k/s met"},
		},
		"nobody to ask as": {
			questionOne, map[string]*apiFigures{byFiles: took(50), byBeside: {why: noUser}, byConsul: took(100)}, []string{"50.0 µs met", "– " + unmeasured},
		},
		"nothing took no time": {
			questionOne, map[string]*apiFigures{byFiles: took(50), byConsul: took()}, []string{"50.0 µs " + unmeasured, "– " + unmeasured},
		},
	} {
		var got []string
		for _, r := range apiRows("work", rawClient, c.targets, c.all) {
			got = append(got, r.value+" "+r.verdict)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestWaitRows: what waits cost is compared with what the server took that does nothing, and what is left of them is all that is left.
func TestWaitRows(t *testing.T) {
	each := func(by string, memory float64, took time.Duration) *waiters {
		return &waiters{server: &apiServer{by: by}, each: memory, took: []time.Duration{took}}
	}
	all := map[string]*waiters{
		byFiles: each(byFiles, 17_900, 150*time.Millisecond), byNothing: each(byNothing, 15_500, 100*time.Millisecond),
	}
	meanwhile := map[string]*apiFigures{byFiles: {p50: []time.Duration{100}}, whileWaiting(byFiles): {p50: []time.Duration{120}}}
	verdicts := func(left map[string]remains) (got []string) {
		for _, r := range waitRows(all, meanwhile, left, noConsul) {
			got = append(got, r.value+" "+r.verdict)
		}
		return got
	}
	none := "– " + unmeasured
	want := []string{"17.9 KB met", "0.1 µs MISSED", "150.0 ms met", "0 connections, 3 goroutines met", none, none, none, none}
	if diff := cmp.Diff(want, verdicts(map[string]remains{byFiles: {0, 3}})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	all[byBeside] = each(byBeside, 18_100, 151*time.Millisecond)
	meanwhile[byBeside], meanwhile[whileWaiting(byBeside)] = meanwhile[byFiles], meanwhile[byFiles]
	want = []string{"17.9 KB met", "0.1 µs MISSED", "150.0 ms met", "5000 connections, 0 goroutines MISSED", "18.1 KB MISSED", "0.1 µs met", "151.0 ms MISSED", "0 connections, 0 goroutines met"}
	if diff := cmp.Diff(want, verdicts(map[string]remains{byFiles: {5000, 0}})); diff != "" {
		t.Errorf("beside Consul too (-want +got):\n%s", diff)
	}
}

// TestRawConn: an answer ends where its length or its last chunk says, and the next begins there.
func TestRawConn(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	const answers = "HTTP/1.1 200 OK\r\nX-Consul-Index: 17\r\nContent-Length: 5\r\n\r\nhello" +
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno" +
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nfoo\r\nc\r\n and no more\r\n0\r\n\r\n" +
		"HTTP/1.1 204 No Content\r\n\r\n" +
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n"
	go func() {
		defer server.Close()
		_, _ = server.Write([]byte(answers))
	}()
	c := &rawConn{Conn: client, r: bufio.NewReader(client)}
	type answer struct {
		Code  int
		Index uint64
		Body  string
	}
	var got []answer
	var err error
	for range 5 {
		if err = c.read(); err != nil {
			break
		}
		got = append(got, answer{c.code, c.index, string(c.body)})
	}
	want := []answer{{200, 17, "hello"}, {403, 0, "no"}, {200, 0, "foo and no more"}, {204, 0, ""}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err == nil || !strings.Contains(err.Error(), "a chunk's length") {
		t.Errorf("the last answer: %v", err)
	}
}

// TestTurns: each server has one turn in each round, and the first one is not always the same.
func TestTurns(t *testing.T) {
	servers := []*apiServer{{by: "a"}, {by: "b"}, {by: "c"}}
	first, had := map[string]int{}, map[string]int{}
	last := -1
	err := turns(6, servers, func(n int, s *apiServer) error {
		if n != last {
			first[s.by]++
			last = n
		}
		had[s.by]++
		return nil
	})
	if err != nil || len(first) < 3 {
		t.Errorf("first of six rounds: %v, %v", first, err)
	}
	if diff := cmp.Diff(map[string]int{"a": 6, "b": 6, "c": 6}, had); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
