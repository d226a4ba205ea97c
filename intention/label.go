package intention

import (
	"strconv"
	"strings"
)

// Label names an intention, and which of its permissions, for logs, counters and pages: "web => api", "web => api #2", and for the guard
// before those that look at paths "web => api #path". It has none of the characters by which statistics take a name apart: of the names in
// it all but letters, digits, "-", "_" and "*" is "%" and two hexadecimal digits, so that two intentions of a mesh have two labels.
func (i *Intention) Label(permission int) string {
	s := i.between()
	switch {
	case i.Permissions.Len() == 0:
		return s
	case permission == 0:
		return s + " #path"
	}
	return s + " #" + strconv.Itoa(permission)
}

// TokenLabel is Label for those who have brought none of the tokens that the intention itself asks for: "web => api #token".
func (i *Intention) TokenLabel() string { return i.between() + " #token" }

func (i *Intention) between() string {
	var b strings.Builder
	switch {
	case i.Source.ID != "":
		label(&b, string(i.Source.ID))
	default:
		label(&b, i.Source.Service)
		if i.Source.Peer != "" {
			b.WriteString("%40")
			label(&b, i.Source.Peer)
		}
	}
	b.WriteString(" => ")
	label(&b, i.Destination.Service)
	return b.String()
}

func label(b *strings.Builder, name string) {
	const digits = "0123456789abcdef"
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '*':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
}
