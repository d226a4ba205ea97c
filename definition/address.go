package definition

import (
	"regexp"
	"strings"
)

// hostName is RFC 1123's form, with the underscores that container networks have.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)

// DialAddress is what others dial: an IP address or a host name.
func (d *Decoder) DialAddress(key string) Setting[string] {
	t := d.Text(key)
	if !t.Set {
		return t
	}
	if a, ok := ParseIP(t.Value); ok {
		if a.IsUnspecified() || a.IsMulticast() {
			d.say(t.At, d.field(key), "%s %s cannot be dialled: give an address that can (where to listen is bind_address in the proxy's config)", d.key(d.field(key)), a)
			return Setting[string]{}
		}
		t.Value = a.String()
		return t
	}
	if len(t.Value) > 253 || !hostName.MatchString(t.Value) || strings.Trim(t.Value, "0123456789.") == "" {
		d.say(t.At, d.field(key), "%s %.60q is neither an IP address (without brackets or zone) nor a host name", d.key(d.field(key)), t.Value)
		return Setting[string]{}
	}
	return t
}
