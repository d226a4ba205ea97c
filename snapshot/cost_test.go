package snapshot_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/envoytest"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// without is an inbound listener that lacks filters, by name, and logs.
type without struct {
	name    string
	filters []string
	logs    bool
}

// slim is l on another socket, without some of what it has.
func slim(b *testing.B, l *listenerv3.Listener, socket string, w without) *listenerv3.Listener {
	b.Helper()
	out := proto.Clone(l).(*listenerv3.Listener)
	out.Name, out.Address = w.name, pipe(socket)
	if w.logs {
		out.AccessLog = nil
	}
	chain := out.FilterChains[0]
	chain.Filters = slices.DeleteFunc(chain.Filters, func(f *listenerv3.Filter) bool { return slices.Contains(w.filters, f.Name) })
	for _, f := range chain.Filters {
		m := &hcmv3.HttpConnectionManager{}
		if !f.GetTypedConfig().MessageIs(m) {
			continue
		}
		if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
			b.Fatal(err)
		}
		m.HttpFilters = slices.DeleteFunc(m.HttpFilters, func(f *hcmv3.HttpFilter) bool { return slices.Contains(w.filters, f.Name) })
		if w.logs {
			m.AccessLog = nil
		}
		a, err := anypb.New(m)
		if err != nil {
			b.Fatal(err)
		}
		f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: a}
	}
	return out
}

// BenchmarkSlots is what empty slots and logs of refusals cost a request, a connection and a byte
// that is sent and answered: on one Envoy, in turn with listeners that lack some or all of them.
// The metrics are medians of paired differences to the listener that has none.
func BenchmarkSlots(b *testing.B) {
	httpAll := []string{"log/web", "jwt/web", "envoy.filters.http.ext_authz", "extensions/http/web"}
	but := func(all []string, one string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(f string) bool { return f == one })
	}
	tcpAll := []string{"authz/web", "extensions/tcp/web"}
	for _, test := range []struct {
		name     string
		protocol catalog.Protocol
		fresh    bool // each on a connection of its own
		variants []without
	}{
		{"request", catalog.HTTP, false, []without{
			{"none", httpAll, true},
			{"log", but(httpAll, "log/web"), true},
			{"jwt", but(httpAll, "jwt/web"), true},
			{"ext_authz", but(httpAll, "envoy.filters.http.ext_authz"), true},
			{"extensions", but(httpAll, "extensions/http/web"), true},
			{"logs-of-refusals", httpAll, false},
			{"all", nil, false},
		}},
		{"connection-http", catalog.HTTP, true, []without{{"none", httpAll, true}, {"logs-of-refusals", httpAll, false}, {"all", nil, false}}},
		{"connection-tcp", catalog.TCP, true, []without{{"none", tcpAll, true}, {"logs-of-refusals", tcpAll, false}, {"all", nil, false}}},
		{"byte-tcp", catalog.TCP, false, []without{{"none", tcpAll, true}, {"all", nil, false}}},
	} {
		b.Run(test.name, func(b *testing.B) {
			dir := socketDir(b)
			app := filepath.Join(dir, "app")
			if test.protocol == catalog.TCP {
				banner(b, app)
			} else {
				serve(b, app)
			}
			in := input(onlyAPI(), catalog.Inbound{Protocol: test.protocol, LocalSocket: app})
			r := build(b, in)
			var l *listenerv3.Listener
			for _, of := range r.ByType[listeners] {
				l = resource(b, r, listeners, of.GetName(), &listenerv3.Listener{})
			}
			r.ByType[listeners] = nil
			sockets := make([]string, len(test.variants))
			for i, v := range test.variants {
				sockets[i] = filepath.Join(dir, v.name)
				r.ByType[listeners] = append(r.ByType[listeners], packed(b, v.name, slim(b, l, sockets[i], v)))
			}
			d := startDynamic(b, envoytest.Newest, r)
			live := make([]*asking, len(sockets))
			for i, s := range sockets {
				live[i] = d.asking(b, s, test.protocol)
			}
			took := make([][]time.Duration, len(sockets))
			for b.Loop() {
				for _, i := range rand.Perm(len(sockets)) {
					start := time.Now()
					if test.fresh {
						a := d.asking(b, sockets[i], test.protocol)
						a.ask(b)
						a.conn.Close()
					} else {
						live[i].ask(b)
					}
					took[i] = append(took[i], time.Since(start))
				}
			}
			b.ReportMetric(micros(took[0]), "none_us")
			for i := range sockets[1:] {
				var more []time.Duration
				for n, d := range took[i+1] {
					more = append(more, d-took[0][n])
				}
				b.ReportMetric(micros(more), "+"+test.variants[i+1].name+"_us")
			}
		})
	}
}

func micros(d []time.Duration) float64 {
	d = slices.Sorted(slices.Values(d))
	return float64(d[len(d)/2]) / float64(time.Microsecond)
}

// asking is a client of api on one connection.
type asking struct {
	conn     net.Conn
	r        *bufio.Reader
	protocol catalog.Protocol
}

func (d *dynamic) asking(b *testing.B, socket string, p catalog.Protocol) *asking {
	b.Helper()
	d.public = socket
	c, err := d.dial("api")
	if err != nil {
		b.Fatal(err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		b.Fatal(err)
	}
	a := &asking{conn: c, r: bufio.NewReader(c), protocol: p}
	a.ask(b)
	return a
}

func (a *asking) ask(b *testing.B) {
	b.Helper()
	if a.protocol == catalog.TCP {
		if _, err := io.WriteString(a.conn, "x"); err != nil {
			b.Fatal(err)
		}
		if _, err := a.r.ReadByte(); err != nil {
			b.Fatal(err)
		}
		return
	}
	fmt.Fprint(a.conn, "GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	r, err := http.ReadResponse(a.r, nil)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil || r.StatusCode != http.StatusOK {
		b.Fatal(r.Status, err)
	}
	r.Body.Close()
}
