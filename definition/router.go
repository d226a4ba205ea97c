package definition

import (
	"strings"

	"github.com/sallyport/sallyport/chain"
)

// Router reads what a service-router entry says beside its name and Meta. It is done with d then. Whether that is right, as far as no
// key alone shows it, is not looked at.
func (d *Decoder) Router() *chain.Router {
	r := &chain.Router{Origin: d.At.String()}
	for _, c := range d.Children("Routes", "route") {
		r.Routes = append(r.Routes, c.route())
	}
	d.Done()
	return r
}

func (d *Decoder) route() chain.Route {
	r := chain.Route{Origin: d.At.String()}
	if m, ok := d.Child("Match", "Match"); ok {
		m.Hint = ": what a route matches is in its HTTP"
		if h, ok := m.Child("HTTP", "HTTP of Match"); ok {
			r.Match = h.httpMatch()
		}
		m.Done()
	}
	if t, ok := d.Child("Destination", "Destination"); ok {
		r.Destination = t.destination()
	}
	d.Done()
	return r
}

func (d *Decoder) httpMatch() *chain.HTTPMatch {
	m := &chain.HTTPMatch{
		PathExact: d.Text("PathExact").Value, PathPrefix: d.Text("PathPrefix").Value, PathRegex: d.Text("PathRegex").Value,
		CaseInsensitive: d.Boolean("CaseInsensitive").Value,
	}
	for _, h := range d.Children("Header", "Header") {
		m.Header = append(m.Header, chain.HeaderMatch{
			Name: h.Text("Name").Value, Present: h.Boolean("Present").Value,
			Exact: h.Text("Exact").Value, Prefix: h.Text("Prefix").Value, Suffix: h.Text("Suffix").Value, Contains: h.Text("Contains").Value, Regex: h.Text("Regex").Value,
			IgnoreCase: h.Boolean("IgnoreCase").Value, Invert: h.Boolean("Invert").Value,
		})
		h.Done()
	}
	for _, q := range d.Children("QueryParam", "QueryParam") {
		m.QueryParam = append(m.QueryParam, chain.QueryMatch{
			Name: q.Text("Name").Value, Present: q.Boolean("Present").Value, Exact: q.Text("Exact").Value, Regex: q.Text("Regex").Value,
		})
		q.Done()
	}
	for _, method := range d.texts("Methods") {
		m.Methods = append(m.Methods, strings.ToUpper(method))
	}
	d.Done()
	return m
}

func (d *Decoder) destination() *chain.Destination {
	t := &chain.Destination{
		Service: d.otherService(), Subset: d.Text("ServiceSubset").Value, PrefixRewrite: d.Text("PrefixRewrite").Value,
		RequestTimeout: d.signedDuration("RequestTimeout").Value, IdleTimeout: d.signedDuration("IdleTimeout").Value,
		NumRetries: count(d.Integer("NumRetries", 0, maxCount)).Value, RetryOnConnectFailure: d.Boolean("RetryOnConnectFailure").Value, RetryOn: d.texts("RetryOn"),
		RequestHeaders: d.headerModifiers("RequestHeaders"), ResponseHeaders: d.headerModifiers("ResponseHeaders"),
	}
	for _, n := range d.Elements("RetryOnStatusCodes") {
		if n.Kind != Integer || n.Integer < 100 || n.Integer > 599 {
			d.say(n.At, d.Given("RetryOnStatusCodes")[0], "%s must be a list of status codes, 100 to 599", d.key(d.Given("RetryOnStatusCodes")[0]))
			continue
		}
		t.RetryOnStatusCodes = append(t.RetryOnStatusCodes, uint32(n.Integer))
	}
	d.enterprise("Namespace", "Partition")
	d.Done()
	return t
}
