package connect

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// tokenSource has the token for the API. It is safe for concurrent use.
type tokenSource struct {
	// file is read for each question; empty: the token never changes.
	file string

	mu   sync.Mutex
	last string
}

// newTokenSource fails if the file cannot be read or is empty.
func newTokenSource(token, file string) (*tokenSource, error) {
	t := &tokenSource{file: file, last: token}
	if file == "" {
		return t, nil
	}
	read, err := readToken(file)
	if err != nil {
		return nil, fmt.Errorf("token for the API: %w", err)
	}
	t.last = read
	return t, nil
}

func readToken(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("%s is empty: write a token into it", file)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", fmt.Errorf("%s has more than one line, or characters that a token cannot have", file)
	}
	return token, nil
}

// get is the token of now. A file that cannot be read, as it may be while it is written, leaves the
// last one.
func (t *tokenSource) get() string {
	if t.file == "" {
		return t.last
	}
	read, err := readToken(t.file)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.last = read
	}
	return t.last
}
