package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/admin"
	"golang.org/x/sync/errgroup"
)

// apiQuestion is what a server is asked.
type apiQuestion struct {
	name, method, path string
	// body is the request's, for the trust domain of the mesh; nil: it has none.
	body func(domain string) string
	// says is what each answer has to hold, blanks aside.
	says string
	leaf bool
}

// request is q as it is put to s.
func (q apiQuestion) request(s *apiServer) []byte {
	token, body := s.reader, ""
	if q.leaf || q.body != nil {
		token = s.token
	}
	if q.leaf && s.uid != 0 {
		token = ""
	}
	if q.body != nil {
		body = q.body(s.domain)
	}
	return rawRequest(q.method, q.path, token, body)
}

// wrong is why an answer is not the right one.
func (q apiQuestion) wrong(c *rawConn) error {
	if c.code != 200 || !bytes.Contains(c.body, []byte(q.says)) {
		return fmt.Errorf("%s: %d %.300s, which is not 200 with %s", q.name, c.code, c.body, q.says)
	}
	return nil
}

// may asks for a connection from a service to service(0).
func may(name string, source int, says string) apiQuestion {
	return apiQuestion{
		name: name, method: "POST", path: "/v1/agent/connect/authorize", says: says,
		body: func(domain string) string {
			return fmt.Sprintf(`{"Target":%q,"ClientCertURI":"spiffe://%s/ns/default/dc/dc1/svc/%s","ClientCertSerial":"01:02"}`, service(0), domain, service(source))
		},
	}
}

// The load that the servers of the HTTP API carry: service(1) may connect to service(0), service(2) may not.
var (
	apiLoad      = load{sidecars: 100, upstreams: 2, protocol: "http"}
	askMay       = may("authorize", 1, `"Authorized":true`)
	askMayNot    = may("authorize, denied", 2, `"Authorized":false`)
	apiQuestions = []apiQuestion{
		{name: "leaf", method: "GET", path: "/v1/agent/connect/ca/leaf/" + service(0), says: "/svc/" + service(0) + `"`, leaf: true},
		{name: "roots", method: "GET", path: "/v1/agent/connect/ca/roots", says: `"ActiveRootID":"`},
		{name: "match", method: "GET", path: "/v1/connect/intentions/match?by=destination&name=" + service(0), says: `"SourceName":"` + service(1) + `"`},
		{name: "check", method: "GET", path: "/v1/connect/intentions/check?source=" + service(1) + "&destination=" + service(0), says: `{"Allowed":true}`},
		{name: "health", method: "GET", path: "/v1/health/connect/" + service(0) + "?passing=1", says: `"DestinationServiceName":"` + service(0) + `"`},
		{name: "config entry", method: "GET", path: "/v1/config/service-intentions/" + service(0), says: `"Kind":"service-intentions"`},
	}
)

type apiPart struct {
	name    string
	measure func(*apiBench, context.Context) ([]row, error)
}

// apiParts are what of the API can be measured alone.
var apiParts = []apiPart{{"authorize", (*apiBench).authorize}, {"questions", (*apiBench).questions}, {"waits", (*apiBench).waits}, {"svids", (*apiBench).svids}}

// measureAPI measures Consul's HTTP API and SPIFFE's Workload API: sallyport from files, beside a Consul agent, the agent itself, and a
// server that does nothing.
func measureAPI(ctx context.Context, o options, dir string) (rows []row, err error) {
	b := &apiBench{o: o, dir: dir, uid: otherUser()}
	defer b.stop()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o711); err != nil { // other users' sockets are below it
			return nil, err
		}
	}
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	for _, part := range apiParts {
		if !o.measures("api") && !o.measures(part.name) {
			continue
		}
		some, err := part.measure(b, ctx)
		rows = append(rows, some...)
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// asked is a connection on which a server has answered q rightly. A server that has just started has half a minute for it.
func (b *apiBench) asked(ctx context.Context, s *apiServer, network string, q apiQuestion) (*rawConn, error) {
	uid := 0
	if q.leaf {
		uid = s.uid
	}
	var c *rawConn
	err := s.process.Await(ctx, 30*time.Second, "answering rightly", func() (err error) {
		if c, err = dialRaw(ctx, network, s.address(network), uid); err != nil {
			return err
		}
		if err = c.exchange(q.request(s)); err == nil {
			err = q.wrong(c)
		}
		if err != nil {
			_ = c.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.by, err)
	}
	return c, nil
}

// unasked reports whether nobody is there whom s would give what q asks for: beside an agent without ACLs a leaf is for the processes
// alone that a service names.
func (b *apiBench) unasked(s *apiServer, q apiQuestion) bool {
	return q.leaf && s.by == byBeside && b.uid == 0
}

// apiRounds is how often each server has its turn, and apiEach how many answers one connection gets in one.
const (
	apiRounds = 31
	apiEach   = 300
	apiMany   = 32
	apiTime   = 150 * time.Millisecond
)

// apiFigures are what a server took, in each round.
type apiFigures struct {
	p50, p99 []time.Duration
	each     []time.Duration // the time of a round by its answers
	why      string          // nothing was measured; empty: it was
}

// turns has each server take its turn in each round, no one always the first, or always after the same one.
func turns(rounds int, servers []*apiServer, turn func(n int, s *apiServer) error) error {
	for n := range rounds {
		order := slices.Clone(servers)
		if n%2 == 1 {
			slices.Reverse(order)
		}
		for i := range order {
			s := order[(i+n/2)%len(order)]
			if err := turn(n, s); err != nil {
				return fmt.Errorf("%s: %w", s.by, err)
			}
		}
	}
	return nil
}

// one asks over one connection of each server, all of them and this client on one processor.
func (b *apiBench) one(ctx context.Context, network string, q apiQuestion, servers []*apiServer) (map[string]*apiFigures, error) {
	all, conns := map[string]*apiFigures{}, map[*apiServer]*rawConn{}
	var asked []*apiServer
	for _, s := range servers {
		if b.unasked(s, q) {
			all[s.by] = &apiFigures{why: noUser}
			continue
		}
		c, err := b.asked(ctx, s, network, q)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		conns[s], all[s.by] = c, &apiFigures{}
		asked = append(asked, s)
	}
	took := make([]time.Duration, apiEach)
	profiled := b.profile(ctx, q.name+" "+network)
	back, err := onOneProcessor(processes(asked)...)
	if err != nil {
		return nil, err
	}
	err = turns(apiRounds+1, asked, func(n int, s *apiServer) error {
		request, c := q.request(s), conns[s]
		for i := range took {
			began := time.Now()
			if err := c.exchange(request); err != nil {
				return err
			}
			took[i] = time.Since(began)
			if err := q.wrong(c); err != nil {
				return err
			}
		}
		if n > 0 { // the first is to warm
			slices.Sort(took)
			f := all[s.by]
			f.p50, f.p99 = append(f.p50, percentile(took, 50)), append(f.p99, percentile(took, 99))
		}
		return ctx.Err()
	})
	b.keep(fmt.Sprintf("API/work=%s/network=%s/c=1", strings.ReplaceAll(q.name, " ", "-"), network), all)
	return all, errors.Join(err, back(), profiled())
}

func processes(servers []*apiServer) (all []*process) {
	for _, s := range servers {
		all = append(all, s.process)
	}
	return all
}

// many asks over 32 connections of each server.
func (b *apiBench) many(ctx context.Context, network string, q apiQuestion) (map[string]*apiFigures, error) {
	all, conns := map[string]*apiFigures{}, map[*apiServer][]*rawConn{}
	for _, s := range b.servers {
		for range apiMany {
			c, err := b.asked(ctx, s, network, q)
			if err != nil {
				return nil, err
			}
			defer c.Close()
			conns[s] = append(conns[s], c)
		}
		all[s.by] = &apiFigures{}
	}
	profiled := b.profile(ctx, fmt.Sprintf("%s %s %d", q.name, network, apiMany))
	err := turns(apiRounds+1, b.servers, func(n int, s *apiServer) error {
		request, took := q.request(s), make([][]time.Duration, apiMany)
		began := time.Now()
		var g errgroup.Group
		for i, c := range conns[s] {
			g.Go(func() error {
				for last := began; last.Sub(began) < apiTime; {
					if err := c.exchange(request); err != nil {
						return err
					}
					if err := q.wrong(c); err != nil {
						return err
					}
					now := time.Now()
					took[i] = append(took[i], now.Sub(last))
					last = now
				}
				return nil
			})
		}
		err := g.Wait()
		spent := time.Since(began)
		if n > 0 && err == nil {
			together := slices.Concat(took...)
			slices.Sort(together)
			f := all[s.by]
			f.each = append(f.each, spent/time.Duration(len(together)))
			f.p50, f.p99 = append(f.p50, percentile(together, 50)), append(f.p99, percentile(together, 99))
		}
		return errors.Join(err, ctx.Err())
	})
	b.keep(fmt.Sprintf("API/work=%s/network=%s/c=%d", q.name, network, apiMany), all)
	return all, errors.Join(err, profiled())
}

// profile profiles the sallyports until the function that it returns is called.
func (b *apiBench) profile(ctx context.Context, name string) (done func() error) {
	var all []func() error
	for _, s := range b.servers {
		if s.client != nil {
			all = append(all, newProfiler(b.o.profiles, admin.Socket(s.client.Dir())).phase(ctx, b.load(), name+" "+s.by))
		}
	}
	return func() (err error) {
		for _, f := range all {
			err = errors.Join(err, f())
		}
		return err
	}
}

// keep keeps figures for benchstat.
func (b *apiBench) keep(name string, all map[string]*apiFigures) {
	for by, f := range all {
		if len(f.p50) == 0 {
			continue
		}
		values := []string{nanos(median(f.p50), "p50-ns/op"), nanos(median(f.p99), "p99-ns/op")}
		if len(f.each) > 0 {
			values = append(values, nanos(median(f.each), "ns/op"))
		}
		b.o.line(benchmarkLine(name+"/by="+strings.ReplaceAll(by, " ", "-"), values...))
	}
}

// networks are those that the API is asked by, as the table calls them.
var networks = []struct{ name, called string }{{"unix", "Unix socket"}, {"tcp", "loopback"}}

func (b *apiBench) authorize(ctx context.Context) (rows []row, err error) {
	for _, network := range networks {
		one, err := b.one(ctx, network.name, askMay, b.servers)
		if err != nil {
			return rows, err
		}
		rows = append(rows, apiRows("authorize, c=1 on one processor, "+network.called, rawClient, authorizeOne, one)...)
		many, err := b.many(ctx, network.name, askMay)
		if err != nil {
			return rows, err
		}
		rows = append(rows, apiRows(fmt.Sprintf("authorize, c=%d, %s", apiMany, network.called), rawClient, authorizeMany, many)...)
	}
	return rows, nil
}

func (b *apiBench) questions(ctx context.Context) (rows []row, err error) {
	for _, q := range apiQuestions {
		f, err := b.one(ctx, "unix", q, b.servers)
		if err != nil {
			return rows, err
		}
		rows = append(rows, apiRows(q.name+", c=1 on one processor, Unix socket", rawClient, questionOne, f)...)
	}
	return rows, nil
}
