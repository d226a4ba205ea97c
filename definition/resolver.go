package definition

import (
	"github.com/sallyport/sallyport/chain"
)

// maxRingSize is Envoy's bound on the size of a ring.
const maxRingSize = 8 << 20

// Resolver reads what a service-resolver entry says beside its name and Meta, in files of that datacenter, which know of no other one.
// It is done with d then. Whether what it says is right, as far as no key alone shows it, is not looked at.
func (d *Decoder) Resolver(datacenter string) *chain.Resolver {
	r := &chain.Resolver{
		Origin: d.At.String(), DefaultSubset: d.Text("DefaultSubset").Value,
		ConnectTimeout: d.signedDuration("ConnectTimeout").Value, RequestTimeout: d.signedDuration("RequestTimeout").Value,
	}
	for _, s := range d.blocks("Subsets", "subset") {
		if r.Subsets == nil {
			r.Subsets = map[string]chain.Subset{}
		}
		r.Subsets[s.name] = chain.Subset{Filter: s.Text("Filter").Value, OnlyPassing: s.Boolean("OnlyPassing").Value}
		s.Done()
	}
	if c, ok := d.Child("Redirect", "Redirect"); ok {
		r.Redirect = &chain.Redirect{Service: c.otherService(), Subset: c.Text("ServiceSubset").Value}
		r.Redirect.Datacenter = c.here("Datacenter", datacenter)
		c.peer()
		c.enterprise("Namespace", "Partition", "SamenessGroup")
		c.Done()
	}
	for _, f := range d.blocks("Failover", "Failover") {
		if r.Failover == nil {
			r.Failover = map[string]chain.Failover{}
		}
		r.Failover[f.name] = f.failover(datacenter)
	}
	if l, ok := d.Child("LoadBalancer", "LoadBalancer"); ok {
		r.LoadBalancer = l.loadBalancer()
	}
	d.enterprise("PrioritizeByLocality")
	d.Done()
	return r
}

// here is a datacenter, of which files know their own alone.
func (d *Decoder) here(key, datacenter string) string {
	s := d.Text(key)
	if s.Set && s.Value != datacenter {
		d.elsewhere(s.At, d.field(key), s.Value, datacenter)
		return ""
	}
	return s.Value
}

func (d *Decoder) elsewhere(at Position, f *Field, given, datacenter string) {
	d.say(at, f, "%s %.60q is not this one (%s): files know the services of no other; beside Consul they can be reached", f.Key, given, datacenter)
}

// peer reports that a peer is named.
func (d *Decoder) peer() {
	if s := d.Text("Peer"); s.Set {
		d.say(s.At, d.field("Peer"), "%s %.60q in %s is not supported: files know the services of no peer", d.field("Peer").Key, s.Value, d.What)
	}
}

func (d *Decoder) failover(datacenter string) chain.Failover {
	f := chain.Failover{Service: d.otherService(), Subset: d.Text("ServiceSubset").Value}
	for _, n := range d.Elements("Datacenters") {
		key := d.Given("Datacenters")[0]
		switch {
		case n.Kind != Text:
			d.say(n.At, key, "%s %v", key.Key, Mismatch("a list of strings", n))
		case n.Text != "" && n.Text != datacenter:
			d.elsewhere(n.At, key, n.Text, datacenter)
		default:
			f.Datacenters = append(f.Datacenters, n.Text)
		}
	}
	for _, t := range d.Children("Targets", "Target") {
		f.Targets = append(f.Targets, chain.FailoverTarget{
			Service: t.otherService(), Subset: t.Text("ServiceSubset").Value, Datacenter: t.here("Datacenter", datacenter),
		})
		t.peer()
		t.enterprise("Namespace", "Partition")
		t.Done()
	}
	d.enterprise("Namespace", "SamenessGroup", "Policy")
	d.Done()
	return f
}

func (d *Decoder) loadBalancer() *chain.LoadBalancer {
	l := &chain.LoadBalancer{Policy: d.Text("Policy").Value}
	if r, ok := d.Child("RingHashConfig", "RingHashConfig"); ok {
		l.RingHash = &chain.RingHash{
			MinimumRingSize: uint64(r.Integer("MinimumRingSize", 0, maxRingSize).Value), //nolint:gosec // not negative
			MaximumRingSize: uint64(r.Integer("MaximumRingSize", 0, maxRingSize).Value), //nolint:gosec // not negative
		}
		r.Done()
	}
	if c, ok := d.Child("LeastRequestConfig", "LeastRequestConfig"); ok {
		l.LeastRequest = &chain.LeastRequest{ChoiceCount: count(c.Integer("ChoiceCount", 0, maxCount)).Value}
		c.Done()
	}
	for _, h := range d.Children("HashPolicies", "hash policy") {
		p := chain.HashPolicy{
			Field: h.Text("Field").Value, FieldValue: h.Text("FieldValue").Value, SourceIP: h.Boolean("SourceIP").Value, Terminal: h.Boolean("Terminal").Value,
		}
		if c, ok := h.Child("CookieConfig", "CookieConfig"); ok {
			p.Cookie = &chain.CookieConfig{Session: c.Boolean("Session").Value, TTL: c.signedDuration("TTL").Value, Path: c.Text("Path").Value}
			c.Done()
		}
		h.Done()
		l.HashPolicies = append(l.HashPolicies, p)
	}
	d.Done()
	return l
}
