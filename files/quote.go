package files

import (
	"regexp"
	"strings"

	"github.com/sallyport/sallyport/definition"
)

var (
	// ourWord is in every definition and config entry.
	ourWord = regexp.MustCompile(`(?i)\b(services?|kind|config_entries|consul\w*)\b`)
	// secretLine has what nobody is to read.
	secretLine = regexp.MustCompile(`(?i)token|secret|passw|private key`)
	word       = regexp.MustCompile(`[\pL\pN_-]{6,}`)
)

// discreet is an error of a parser that quotes nothing of a file that is none of ours, such as a key
// that a symbolic link leads to, and nothing of a line with a secret: errors are logged, and shown to
// whoever may ask for the status.
func discreet(file string, src []byte, err *definition.SyntaxError) *definition.SyntaxError {
	if err == nil {
		return nil
	}
	ours, after := ourWord.Match(src), false
	for line := range strings.Lines(string(src)) {
		secret := secretLine.MatchString(line)
		if ours && !secret && !after { // what follows may be the value
			continue
		}
		after = secret
		if !quotes(err.Text, line, ours) {
			continue
		}
		text := "cannot be read as %s, and the line is not quoted, as it may hold a secret"
		if !ours {
			text = "cannot be read as %s, and has no service and no Kind, so it is probably not meant for here: take it out of the directory"
		}
		return definition.Syntax(err.Line, text, strings.ToUpper(format(file)))
	}
	return err
}

// quotes reports whether an error has a part of a word of a line. In one of our files the names of keys
// are no secrets.
func quotes(text, line string, ours bool) bool {
	const least = 6
	for _, w := range word.FindAllString(line, -1) {
		if ours && secretLine.MatchString(w) {
			continue
		}
		for n := 0; n+least <= len(w); n++ {
			if strings.Contains(text, w[n:n+least]) {
				return true
			}
		}
	}
	return false
}
