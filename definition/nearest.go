package definition

import "strings"

// Nearest is the candidate that key is most likely a misspelling of; empty if none is near.
func Nearest(key string, candidates []string) string {
	k := canonical(key)
	if len(k) > 64 {
		return ""
	}
	best, least := "", 1+min(2, len(k)/3)
	for _, c := range candidates {
		if d := distance(k, canonical(c)); d < least {
			best, least = c, d
		}
	}
	return best
}

// whole is the candidate that has all words of key in their order, and others: destination_name for
// destination, local_service_port for local_port; empty if there is none, or are several.
func whole(key string, candidates []string) (found string) {
	k := canonical(key)
	if len(k) < 3 {
		return ""
	}
	for _, c := range candidates {
		if !someOf(wordsOf(c), k) {
			continue
		}
		if found != "" {
			return ""
		}
		found = c
	}
	return found
}

// wordsOf are the words of a key, in lower case.
func wordsOf(key string) (words []string) {
	begin := true
	for i, c := range key {
		upper := c >= 'A' && c <= 'Z'
		switch {
		case c == '_':
			begin = true
			continue
		case begin || upper && (key[i-1] < 'A' || key[i-1] > 'Z'):
			words, begin = append(words, ""), false
		}
		words[len(words)-1] += strings.ToLower(string(c))
	}
	return words
}

// someOf reports whether k is made of words in their order, which may leave some out.
func someOf(words []string, k string) bool {
	if k == "" {
		return true
	}
	for i, w := range words {
		if rest, ok := strings.CutPrefix(k, w); ok && someOf(words[i+1:], rest) {
			return true
		}
	}
	return false
}

// spell is a key as one would write it who has written like: MaxInboundConnections in config
// entries, else max_inbound_connections.
func spell(key, like string) string {
	if like == "" || like[0] < 'A' || like[0] > 'Z' {
		return key
	}
	parts := strings.Split(key, "_")
	for i, p := range parts {
		if p != "" {
			parts[i] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "")
}

// distance is how many letters must be changed, added, removed or swapped with their neighbour to
// make b out of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range b {
		rows[0][j+1] = j + 1
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
