package remote

import (
	"fmt"
	"strings"
)

// ReadSecret reads a file of one word, such as a token, without the white space around it. What is in it is never in an error. It does not
// wait for the writer of a pipe.
func ReadSecret(name string) (string, error) {
	b, err := readFile(name)
	text := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return "", err
	case text == "":
		return "", fmt.Errorf("%s is empty", name)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("%s has more in it than one word", name)
	}
	return text, nil
}
