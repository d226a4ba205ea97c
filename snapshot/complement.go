package snapshot

import (
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// segment is every character of a segment of a SPIFFE ID's path (SPIFFE-ID, "Path"). Ranges of
// characters are written out rather than negated: RE2 spends a multiple on [^…], which stands for
// every other character of Unicode.
const segment = `[\-.0-9A-Z_a-z]`

// maxComplement is the number of names up to which "all but these" cost a handshake no measurable
// time.
const maxComplement = 200

// complement is an expression, in the syntax that RE2 and Go share, for the names of services that
// are none of the given ones. Like a SPIFFE ID, it knows neither "." nor "..". It matches a whole
// text; it is not anchored itself.
//
// It follows the trie of the given names: any other name either leaves the trie at some character,
// with any characters after it, or ends within it. The tail that all alternatives share is written
// once.
func complement(names []string) string {
	root := &branch{}
	root.add(".")
	root.add("..")
	for _, n := range names {
		root.add(n)
	}
	expr := `(?:` + root.leaves() + segment + `*`
	if w := root.within(); w != "" {
		expr += `|` + w
	}
	return expr + `)`
}

// branch is a node of a tree of names.
type branch struct {
	next map[byte]*branch
	end  bool // a name ends here
}

func (b *branch) add(name string) {
	for i := range len(name) {
		c := b.next[name[i]]
		if c == nil {
			c = &branch{}
			if b.next == nil {
				b.next = map[byte]*branch{}
			}
			b.next[name[i]] = c
		}
		b = c
	}
	b.end = true
}

// sorted are the characters by which the tree goes on below b.
func (b *branch) sorted() []byte { return slices.Sorted(maps.Keys(b.next)) }

// leaves matches the first characters of a name up to the one with which it leaves the tree.
func (b *branch) leaves() string {
	var alternatives []string
	if c := b.others(); c != "" {
		alternatives = append(alternatives, c)
	}
	for _, c := range b.sorted() {
		alternatives = append(alternatives, quote(c)+b.next[c].leaves())
	}
	return `(?:` + strings.Join(alternatives, `|`) + `)`
}

// within matches names that end in the tree, below b, without being one of its names; empty if
// there are none.
func (b *branch) within() string {
	var alternatives []string
	for _, c := range b.sorted() {
		n := b.next[c]
		w := n.within()
		switch {
		case n.end && w == "":
		case n.end:
			alternatives = append(alternatives, quote(c)+w)
		case w == "":
			alternatives = append(alternatives, quote(c))
		default:
			alternatives = append(alternatives, quote(c)+w+`?`)
		}
	}
	if len(alternatives) == 0 {
		return ""
	}
	return `(?:` + strings.Join(alternatives, `|`) + `)`
}

// others is the class of the characters by which the tree does not go on below b; empty if there
// are none.
func (b *branch) others() string {
	var class strings.Builder
	for _, r := range []struct{ from, to byte }{{'-', '-'}, {'.', '.'}, {'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}} {
		for from := r.from; from <= r.to; from++ {
			to := from
			for to <= r.to && b.next[to] == nil {
				to++
			}
			if to == from {
				continue
			}
			class.WriteString(classChar(from))
			if to-from > 2 {
				class.WriteByte('-')
			}
			if to-from > 1 {
				class.WriteString(classChar(to - 1))
			}
			from = to
		}
	}
	if class.Len() == 0 {
		return ""
	}
	return `[` + class.String() + `]`
}

func classChar(c byte) string {
	if c == '-' {
		return `\-`
	}
	return string(rune(c))
}

func quote(c byte) string { return regexp.QuoteMeta(string(rune(c))) }

// programSize is an upper bound of the instructions that RE2 needs for expr, which Envoy compares
// with re2.max_program_size.error_level. Go compiles expressions much like RE2 does, but keeps a
// class in one instruction where RE2 has one for each of its ranges. A test compares it with
// Envoy's own count. It is very large for an invalid expression.
func programSize(expr string) int { return sizeOf(expr, 1) }

// sizeOf is programSize where an alternative takes as many instructions.
func sizeOf(expr string, alternative int) int {
	const none = 1 << 30
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return none
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return none
	}
	size := 0
	for _, i := range prog.Inst {
		switch i.Op {
		case syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			size += anyRune
		case syntax.InstRune, syntax.InstRune1:
			size += sizeOfClass(i.Rune) * folds(i)
		case syntax.InstAlt:
			size += alternative
		default:
			size++
		}
	}
	return size
}

// anyRune is how many instructions a dot takes, for each of its bytes.
const anyRune = 12

// folds is how many times as much a character takes of which letter case does not matter: "k" is also the sign of Kelvin.
func folds(i syntax.Inst) int {
	if len(i.Rune) == 1 && i.Arg&uint32(syntax.FoldCase) != 0 {
		return 4
	}
	return 1
}

// sizeOfClass is how many instructions a class may take: one for each range of ASCII. Others are of several bytes, and many of them share
// most of those.
func sizeOfClass(ranges []rune) int {
	n := max(len(ranges)/2, 1)
	if slices.ContainsFunc(ranges, func(r rune) bool { return r > 0x7f }) {
		return min(16*n, 64+5*n)
	}
	return n
}
