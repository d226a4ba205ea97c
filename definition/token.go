package definition

import (
	"cmp"
	"encoding/base64"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/jwks"
)

const (
	// defaultSkew is Consul's.
	defaultSkew = 30 * time.Second
	maxSkew     = 24 * time.Hour
	// maxTokenCache bounds how many verified tokens a worker remembers: each is some kilobytes.
	maxTokenCache = 10000
	// leastKeyPeriod is how often keys are asked for at most.
	leastKeyPeriod = 10 * time.Second
	maxKeyTimeout  = 30 * time.Second
	maxKeyRetries  = 10
	// maxPlaces bounds Locations and Audiences each.
	maxPlaces = 100
	// maxProviderName bounds a name, and each of the other texts of a provider, in bytes.
	maxProviderName = 1024
)

// TokenProvider reads what a jwt-provider entry says beside its Meta. It is done with d then. A Filename is looked for beside dir, if it
// is no full path. ok is false if a mistake was found, with which nothing the provider issues may count; of a lenient Reader that is told
// of in Unusable, too.
func (d *Decoder) TokenProvider(dir string) (p *catalog.TokenProvider, ok bool) {
	p = &catalog.TokenProvider{Origin: d.At.String(), ClockSkew: defaultSkew}
	report := d.Report
	inner := *d.Reader
	inner.Report = func(m Mistake) {
		p.Unusable = cmp.Or(p.Unusable, m.Text, "it is wrong")
		report(m)
	}
	d.Reader = &inner
	d.instead = "no token of the provider counts"
	name := d.Text("Name")
	if d.Need("Name", name) && !plain(name.Value) {
		d.wrong(d.field("Name"), "has control characters or more than %d bytes", maxProviderName)
	}
	p.Name = name.Value
	issuer := d.Text("Issuer")
	// Consul takes none, and then no token ever has the one that its rules look for.
	if p.Issuer = issuer.Value; d.Need("Issuer", issuer) && len(issuer.Value) > maxProviderName {
		d.wrong(d.field("Issuer"), "has more than %d bytes", maxProviderName)
	}
	if p.Audiences = d.texts("Audiences"); len(p.Audiences) > maxPlaces {
		d.wrong(d.Given("Audiences")[0], "has %d audiences: at most %d are taken", len(p.Audiences), maxPlaces)
	}
	d.tokenKeys(p, dir)
	d.places(p)
	if f, ok := d.Child("Forwarding", "Forwarding"); ok {
		p.PadPayload = f.Boolean("PadForwardPayloadHeader").Value
		switch h := f.Text("HeaderName"); {
		case !h.Set:
			f.say(f.At, &Field{Key: "HeaderName", Value: &Node{}}, "Header name required for forwarding config")
		case !headerName(h.Value):
			f.wrong(f.field("HeaderName"), "%.60q is no header that the application can be given", h.Value)
		default:
			p.PayloadHeader = strings.ToLower(h.Value)
		}
		f.Done()
	}
	if s := d.Integer("ClockSkewSeconds", 0, int64(maxSkew/time.Second)); s.Value != 0 {
		p.ClockSkew = time.Duration(s.Value) * time.Second
	}
	if c, ok := d.Child("CacheConfig", "CacheConfig"); ok {
		p.CacheSize = count(c.Integer("Size", 0, maxTokenCache)).Value
		c.Done()
	}
	d.Done()
	return p, p.Unusable == "" && !d.Broken
}

// tokenKeys reads JSONWebKeySet.
func (d *Decoder) tokenKeys(p *catalog.TokenProvider, dir string) {
	k, ok := d.Child("JSONWebKeySet", "JSONWebKeySet")
	if !ok {
		if d.Field("JSONWebKeySet") == nil {
			d.say(d.At, &Field{Key: "JSONWebKeySet", Value: &Node{}}, "JSONWebKeySet is required")
		}
		return
	}
	local, isLocal := k.Child("Local", "Local")
	remote, isRemote := k.Child("Remote", "Remote")
	if (k.Field("Local") == nil) == (k.Field("Remote") == nil) {
		k.Mistake(k.At, "must specify exactly one of Local or Remote JSON Web key set")
	}
	if isLocal {
		local.localKeys(p, dir)
	}
	if isRemote {
		p.From = remote.remoteKeys(dir)
	}
	k.Done()
}

func (d *Decoder) localKeys(p *catalog.TokenProvider, dir string) {
	text, file := d.Text("JWKS"), d.Text("Filename")
	switch {
	case text.Set == file.Set:
		d.Mistake(d.At, "must specify exactly one of String or filename for local keyset")
	case file.Set && d.Lenient:
		d.wrong(d.field("Filename"), "is of a file on the machines of all proxies, which are not sent there to read one: give the keys as JWKS")
	case file.Set:
		p.From.File = beside(dir, file.Value)
	default:
		d.inlineKeys(p, text.Value)
	}
	d.Done()
}

// inlineKeys reads keys that are in the entry.
func (d *Decoder) inlineKeys(p *catalog.TokenProvider, text string) {
	f := d.field("JWKS")
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		d.say(f.Value.At, f, "JWKS must be valid base64 encoded string")
		return
	}
	set, err := jwks.Parse(raw)
	switch {
	case err != nil:
		d.wrong(f, "cannot be used: %v", err)
	case len(set.Secrets) > 0:
		d.wrong(f, "cannot be used: %s", set.Secrets[0])
	case len(set.Left) > 0:
		d.wrong(f, "cannot be used: %s", set.Left[0])
	default:
		p.Keys = set.Text
	}
}

// remoteKeys reads where keys are asked for.
func (d *Decoder) remoteKeys(dir string) (from catalog.KeySource) {
	switch uri := d.Text("URI"); {
	case !uri.Set:
		d.say(d.At, &Field{Key: "URI", Value: &Node{}}, "Remote JWKS URI is required")
	default:
		from.URI = uri.Value
		u, err := url.ParseRequestURI(uri.Value)
		switch {
		case err != nil:
			d.say(uri.At, d.field("URI"), "Remote JWKS URI is invalid: %v", err)
		case u.Scheme != "https" || u.Hostname() == "":
			d.wrong(d.field("URI"), "%.200q is not https://HOST[:PORT]/PATH: whoever can write what comes from there can make tokens", uri.Value)
		case u.User != nil || u.Fragment != "" || strings.Contains(uri.Value, "#"):
			d.wrong(d.field("URI"), "has a user name or a fragment in it: leave it out")
		}
	}
	from.Timeout = time.Duration(d.Integer("RequestTimeoutMs", 0, maxKeyTimeout.Milliseconds()).Value) * time.Millisecond
	if c := d.Duration("CacheDuration"); c.Set {
		if from.Period = c.Value; c.Value < leastKeyPeriod || c.Value > longestTime {
			d.wrong(d.field("CacheDuration"), "is %s: it must be %s or more", c.Value, leastKeyPeriod)
		}
	}
	// Keys are asked for as soon as an intention names the provider, and again while they are in use, in either case.
	d.Boolean("FetchAsynchronously")
	if r, ok := d.Child("RetryPolicy", "RetryPolicy"); ok {
		from.Retries = count(r.Integer("NumRetries", 0, maxKeyRetries)).Value
		if b, ok := r.Child("RetryPolicyBackOff", "RetryPolicyBackOff"); ok {
			least, most := b.Duration("BaseInterval"), b.Duration("MaxInterval")
			if most.Set && most.Value < least.Value {
				b.say(most.At, b.field("MaxInterval"), "retry policy backoff's MaxInterval should be greater or equal to BaseInterval")
			}
			b.Done()
		}
		r.Done()
	}
	if c, ok := d.Child("JWKSCluster", "JWKSCluster"); ok {
		c.keyServer(&from, dir)
	}
	d.Done()
	return from
}

// keyServer reads how the server with the keys proves itself. How its name becomes addresses is none of Envoy's affairs.
func (d *Decoder) keyServer(from *catalog.KeySource, dir string) {
	switch t := d.Text("DiscoveryType"); t.Value {
	case "", "STATIC", "STRICT_DNS", "LOGICAL_DNS", "EDS", "ORIGINAL_DST":
	default:
		d.say(t.At, d.field("DiscoveryType"), "unsupported jwks cluster discovery type: %.60q", t.Value)
	}
	d.Duration("ConnectTimeout")
	if t, ok := d.Child("TLSCertificates", "TLSCertificates"); ok {
		instance, ca := t.Field("CaCertificateProviderInstance"), t.Field("TrustedCA")
		if (instance == nil) == (ca == nil) {
			t.Mistake(t.At, "must specify exactly one of: CaCertificateProviderInstance or TrustedCA for JKWS' TLSCertificates")
		} else if instance != nil {
			t.wrong(t.field("CaCertificateProviderInstance"), "names something in Envoys' bootstraps, and they do not ask for the keys: give TrustedCA")
		} else if c, ok := t.Child("TrustedCA", "TrustedCA"); ok {
			c.trustedCA(from, dir)
		}
		t.Done()
	}
	d.Done()
}

func (d *Decoder) trustedCA(from *catalog.KeySource, dir string) {
	file, variable, text, coded := d.Text("Filename"), d.Text("EnvironmentVariable"), d.Text("InlineString"), d.Text("InlineBytes")
	given := 0
	for _, s := range []Setting[string]{file, variable, text, coded} {
		if s.Set {
			given++
		}
	}
	switch {
	case given != 1:
		d.Mistake(d.At, "must specify exactly one of: Filename, EnvironmentVariable, InlineString or InlineBytes for JWKS' TrustedCA")
	case variable.Set:
		d.wrong(d.field("EnvironmentVariable"), "is of Envoys' environments, and they do not ask for the keys: give Filename or InlineString")
	case file.Set:
		from.CAFile = beside(dir, file.Value)
	case text.Set:
		from.CA = text.Value
	default:
		raw, err := base64.StdEncoding.DecodeString(coded.Value)
		if err != nil {
			d.wrong(d.field("InlineBytes"), "is no base64")
		}
		from.CA = string(raw)
	}
	d.Done()
}

// places reads Locations.
func (d *Decoder) places(p *catalog.TokenProvider) {
	all := d.Children("Locations", "Location")
	forwards := map[bool]bool{}
	for _, l := range all {
		header, query, cookie := l.Field("Header"), l.Field("QueryParam"), l.Field("Cookie")
		given := 0
		for _, n := range []*Node{header, query, cookie} {
			if n != nil {
				given++
			}
		}
		if given != 1 {
			l.Mistake(l.At, "must set exactly one of: JWT location header, query param or cookie")
			l.Done()
			continue
		}
		if c, ok := l.Child("Header", "Header"); ok {
			n := c.Text("Name")
			place := catalog.TokenPlace{In: catalog.InHeader, Name: strings.ToLower(n.Value), Prefix: c.Text("ValuePrefix").Value}
			forward := c.Boolean("Forward")
			forwards[forward.Value] = true
			switch {
			case !n.Set:
				c.say(c.At, &Field{Key: "Name", Value: &Node{}}, "JWT location header name must be specified")
			case !headerName(n.Value):
				c.wrong(c.field("Name"), "%.60q is no header that a token can be in", n.Value)
			case !plain(place.Prefix):
				c.wrong(c.field("ValuePrefix"), "has control characters or more than %d bytes", maxProviderName)
			case len(forwards) > 1:
				// Envoy has one switch for all of a provider.
				c.Mistake(c.At, "Forward has to be the same in all Locations of a provider")
			}
			p.Forward = forward.Value
			p.Places = append(p.Places, place)
			c.Done()
		}
		for _, other := range []struct {
			key, what string
			in        catalog.TokenCarrier
		}{{"QueryParam", "query param", catalog.InQuery}, {"Cookie", "cookie", catalog.InCookie}} {
			c, ok := l.Child(other.key, other.key)
			if !ok {
				continue
			}
			n := c.Text("Name")
			switch {
			case !n.Set:
				c.say(c.At, &Field{Key: "Name", Value: &Node{}}, "JWT location %s name must be specified", other.what)
			case !plain(n.Value):
				c.wrong(c.field("Name"), "has control characters or more than %d bytes", maxProviderName)
			}
			p.Places = append(p.Places, catalog.TokenPlace{In: other.in, Name: n.Value})
			c.Done()
		}
		l.Done()
	}
	if len(all) > maxPlaces {
		d.wrong(d.Given("Locations")[0], "has %d places: at most %d are taken", len(all), maxPlaces)
	}
	if len(p.Places) == 0 { // Envoy's defaults, as Consul leaves them
		p.Places = []catalog.TokenPlace{{In: catalog.InHeader, Name: "authorization", Prefix: "Bearer "}, {In: catalog.InQuery, Name: "access_token"}}
	}
}

// plain reports whether s can be in a configuration of Envoy's: of some length at most, and without control characters.
func plain(s string) bool {
	return len(s) <= maxProviderName && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}

// headerName reports whether a header can be called so, and is none that says what a request is.
func headerName(s string) bool {
	if s == "" || len(s) > maxProviderName {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	switch strings.ToLower(s) {
	case "host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive", "proxy-connection":
		return false
	}
	return true
}

// beside is a path that begins in dir, unless it is a full one.
func beside(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
