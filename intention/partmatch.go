package intention

import "strings"

// search is how a test is decided that has an expression, for Envoy, and of which Go need not ask it: Go takes some 50 ns for each byte of
// a text, and clients say how long texts are. It means what the expression does, in time that is linear in the text.
type search struct {
	kind  searchKind
	value string // ASCII; of lower case if fold
	fold  bool   // letter case does not count, as (?i: has it: U+212A is a "k", and U+017F an "s"
}

type searchKind uint8

const (
	anyText    searchKind = iota // anyValue
	asciiText                    // ascii
	partIs                       // partFirst, value, partLast
	partBegins                   // partFirst, value, anyValue
	partEnds                     // anyValue, value, partLast
)

// partTest is a test of the parts of a header's value, or one by an expression, which says the same, for what search does not know.
func partTest(of, re string, kind searchKind, value string, fold bool) Test {
	if of == "cookie" || of == authorityText || !isASCIIText(value) { // those are compared in ways of their own
		return expression(of, re)
	}
	if fold {
		value = lower(value)
	}
	return Test{Of: of, Kind: Expression, Value: re, search: &search{kind: kind, value: value, fold: fold}}
}

func (s *search) holds(text string) bool {
	switch s.kind {
	case anyText:
		return true
	case asciiText:
		return isHeaderText(text)
	case partEnds:
		return s.ends(text)
	case partIs, partBegins:
	}
	// Parts begin where there are blanks alone since the last comma.
	fresh, from, to := true, 0, 0
	for i := 0; i <= len(text); i++ {
		if i > 0 {
			fresh = text[i-1] == ',' || fresh && isBlank(text[i-1])
		}
		if !fresh {
			next := strings.IndexByte(text[i:], ',')
			if next < 0 {
				return false
			}
			i += next // the part after it is next
			continue
		}
		n := s.begin(text[i:])
		if n < 0 {
			continue
		}
		if s.kind == partBegins {
			return true
		}
		if i+n < from || i+n > to { // else it is known where these blanks end
			from, to = i+n, i+n
			for to < len(text) && isBlank(text[to]) {
				to++
			}
		}
		if to == len(text) || text[to] == ',' {
			return true
		}
	}
	return false
}

// ends reports whether a part ends with the value. Parts end where there are blanks alone up to the next comma.
func (s *search) ends(text string) bool {
	last := true
	for i := len(text); i >= 0; i-- {
		if i < len(text) {
			last = text[i] == ',' || last && isBlank(text[i])
		}
		if !last {
			before := strings.LastIndexByte(text[:i], ',')
			if before < 0 {
				return false
			}
			i = before + 1 // the end of the part before it is next
			continue
		}
		if s.endsAt(text[:i]) {
			return true
		}
	}
	return false
}

// begin is how long what text begins with is, if that is the value; -1 if not.
func (s *search) begin(text string) (n int) {
	if !s.fold {
		if strings.HasPrefix(text, s.value) {
			return len(s.value)
		}
		return -1
	}
	for k := range len(s.value) {
		c := s.value[k]
		other := folded(c)
		switch {
		case n < len(text) && lowerByte(text[n]) == c:
			n++
		case other != "" && strings.HasPrefix(text[n:], other):
			n += len(other)
		default:
			return -1
		}
	}
	return n
}

func (s *search) endsAt(text string) bool {
	if !s.fold {
		return strings.HasSuffix(text, s.value)
	}
	for k := len(s.value) - 1; k >= 0; k-- {
		c, n := s.value[k], len(text)
		other := folded(c)
		switch {
		case n > 0 && lowerByte(text[n-1]) == c:
			text = text[:n-1]
		case other != "" && strings.HasSuffix(text, other):
			text = text[:n-len(other)]
		default:
			return false
		}
	}
	return true
}

// folded is what else than ASCII is a letter in another case.
func folded(c byte) string {
	switch c {
	case 'k':
		return "\u212a"
	case 's':
		return "\u017f"
	}
	return ""
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// isHeaderText reports whether s is of headerChars.
func isHeaderText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '\t' && (c < ' ' || c > '~') {
			return false
		}
	}
	return true
}

func isASCIIText(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
