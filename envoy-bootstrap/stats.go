package bootstrap

import (
	"regexp"
	"strings"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
)

// stats gives metrics the labels that they have under Consul, so that its dashboards work. A label
// that Consul leaves empty (subset, hash or partition, where there is none) is left out, which is
// the same to Prometheus.
func (p Params) stats() *metricsv3.StatsConfig {
	c := &metricsv3.StatsConfig{}
	for _, t := range append(p.destinationTags(), p.upstreamTags()...) {
		c.StatsTags = append(c.StatsTags, &metricsv3.TagSpecifier{TagName: t.name, TagValue: &metricsv3.TagSpecifier_Regex{Regex: t.value}})
	}
	given := map[string]bool{}
	for _, t := range c.GetStatsTags() {
		given[t.GetTagName()] = true
	}
	for _, t := range append(p.sourceTags(), p.ownTags()...) {
		if given[t.name] { // to Prometheus a label that is there twice makes a page that cannot be read
			continue
		}
		given[t.name] = true
		c.StatsTags = append(c.StatsTags, &metricsv3.TagSpecifier{TagName: t.name, TagValue: &metricsv3.TagSpecifier_FixedValue{FixedValue: t.value}})
	}
	return c
}

// tag is the name of a label and either its value or a regular expression over the whole names of
// metrics, such as cluster.api.default.dc1.internal.example.com.upstream_cx_total. Of such an
// expression, the first group is cut out of the metric's name and the second becomes the value;
// Envoy takes the expressions as ECMAScript does.
type tag struct{ name, value string }

// destinationTags parse the names of clusters, identity.Service.SNI with "<hash>~" before it where
// one service has several clusters. The trust domain is known and written out, and the segments
// before it are counted from its end, as the service's name may hold dots.
func (p Params) destinationTags() []tag {
	domain := p.Identity.TrustDomain.Name()
	// All trust domains of Consul end in ".consul", which its labels leave out.
	short, consul := strings.CutSuffix(domain, ".consul")
	end := `\.`
	if consul {
		end = `\.consul\.`
	}
	short = regexp.QuoteMeta(short)

	const hash, service, segment = `(?:[^.~]+~)?`, `[^~]+?`, `[^.~]+`
	target := service + `\.` + segment + `\.` + segment
	full := hash + target + `\.internal\.` + short
	// expression is one over the whole name of which before, value and after are consecutive parts.
	expression := func(before, value, after string) string {
		return `^cluster\.(` + before + `(` + value + `)` + after + end + `)`
	}
	return []tag{
		{"consul.destination.custom_hash", expression(``, segment, `~`+target+`\.internal\.`+short)},
		{"consul.destination.service", expression(hash, service, `\.`+segment+`\.`+segment+`\.internal\.`+short)},
		{"consul.destination.namespace", expression(hash+service+`\.`, segment, `\.`+segment+`\.internal\.`+short)},
		{"consul.destination.datacenter", expression(hash+service+`\.`+segment+`\.`, segment, `\.internal\.`+short)},
		{"consul.destination.routing_type", expression(hash+target+`\.`, `internal`, `\.`+short)},
		{"consul.destination.trust_domain", expression(hash+target+`\.internal\.`, short, ``)},
		{"consul.destination.target", expression(hash, target, `\.internal\.`+short)},
		{"consul.destination.full_target", expression(``, full, ``)},
	}
}

// upstreamTags parse the stat prefixes of upstream listeners,
// upstream.<service>.<namespace>.<partition>.<datacenter>. The name of a metric follows, which may
// hold dots, as may the service's name: the namespace and the partition, which are the proxy's own,
// are the fixed points.
func (p Params) upstreamTags() []tag {
	const service, segment = `.+?`, `[^.]+`
	namespace, partition := regexp.QuoteMeta(p.Identity.Namespace), regexp.QuoteMeta(p.Identity.Partition)
	expression := func(before, value, after string) string {
		return `^(?:tcp|http)\.upstream\.(` + before + `(` + value + `)` + after + `\.)`
	}
	return []tag{
		{"consul.upstream.service", expression(``, service, `\.`+namespace+`\.`+partition+`\.`+segment)},
		{"consul.upstream.namespace", expression(service+`\.`, namespace, `\.`+partition+`\.`+segment)},
		{"consul.upstream.partition", expression(service+`\.`+namespace+`\.`, partition, `\.`+segment)},
		{"consul.upstream.datacenter", expression(service+`\.`+namespace+`\.`+partition+`\.`, segment, ``)},
	}
}

// sourceTags are the same for every metric of this Envoy.
func (p Params) sourceTags() []tag {
	return []tag{
		{"local_cluster", p.Identity.Service},
		{"consul.source.service", p.Identity.Service},
		{"consul.source.namespace", p.Identity.Namespace},
		{"consul.source.partition", p.Identity.Partition},
		{"consul.source.datacenter", p.Identity.Datacenter},
	}
}

// ownTags are those that the proxy's definition asks for.
func (p Params) ownTags() (tags []tag) {
	for _, t := range p.StatsTags {
		if name, value, ok := strings.Cut(t, "="); ok && name != "" {
			tags = append(tags, tag{name, value})
		}
	}
	return tags
}
