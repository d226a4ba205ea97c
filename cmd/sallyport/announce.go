package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// announce says, once the catalog is there, what is served and where.
func (p *controlPlane) announce(ctx context.Context, out io.Writer, l listeners) {
	waiting, there := context.WithCancel(ctx)
	defer there()
	p.store.Views.Watch(waiting, func(*catalog.View) { there() })
	v, ok := p.store.Views.Load()
	if !ok {
		return
	}
	proxies := slices.Collect(v.Proxies())
	known := "no proxies yet" // a catalog may come bit by bit
	if len(proxies) > 0 {
		known = count(len(proxies), "proxy")
	}
	p.notify("STATUS=" + count(len(proxies), "proxy"))
	fmt.Fprintf(out, "sallyport %s serves %s: %s; %s\n", versionText(), v.Mesh().TrustDomain.Name(), known, p.source.status().Source)
	list(out, v, proxies)
	fmt.Fprintf(out, "  sockets in %s", p.cfg.RuntimeDir)
	if l.remote != nil {
		fmt.Fprintf(out, "; Envoys elsewhere at %s", l.remote.Addr())
	}
	switch {
	case l.httpTLS != nil:
		fmt.Fprintf(out, "; HTTP API at https://%s", l.httpTCP.Addr())
	case l.httpTCP != nil:
		fmt.Fprintf(out, "; HTTP API at http://%s", l.httpTCP.Addr())
	}
	if l.metrics != nil {
		fmt.Fprintf(out, "; metrics at http://%s/metrics", l.metrics.Addr())
	}
	fmt.Fprintln(out)
	if len(proxies) > 0 {
		return
	}
	if v, proxies = p.firstProxies(ctx); len(proxies) > 0 {
		fmt.Fprintf(out, "now there: %s\n", count(len(proxies), "proxy"))
		list(out, v, proxies)
	}
}

// firstProxies waits for proxies in the catalog, and until no more of them come; none if ctx ended
// before.
func (p *controlPlane) firstProxies(ctx context.Context) (v *catalog.View, proxies []*catalog.Proxy) {
	var quiet <-chan time.Time
	for {
		changed := p.store.Views.Changed()
		v, _ = p.store.Views.Load()
		if now := slices.Collect(v.Proxies()); len(now) != len(proxies) {
			proxies, quiet = now, time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return v, nil
		case <-quiet:
			if len(proxies) > 0 {
				return v, proxies
			}
		case <-changed:
		}
	}
}

// list names the first of the proxies.
func list(out io.Writer, v *catalog.View, proxies []*catalog.Proxy) {
	for n, pr := range proxies {
		if n == 10 {
			fmt.Fprintf(out, "  … and %d more (sallyport status)\n", len(proxies)-n)
			break
		}
		fmt.Fprintf(out, "  %-24s %s (%s, %s, %s)\n", pr.ID, v.Identity(pr.Service), net.JoinHostPort(pr.Inbound.Address, strconv.Itoa(int(pr.Inbound.Port))), pr.Inbound.Protocol, pr.Inbound.Enforcement)
	}
}
