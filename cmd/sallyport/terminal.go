package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// pageWidth is how many columns what is printed for people takes.
const pageWidth = 100

// colour is how a text stands out on a terminal.
type colour string

const (
	red    colour = "31"
	yellow colour = "33"
	green  colour = "32"
	bold   colour = "1"
)

// painter colours texts, or leaves them as they are, and completes the commands that they advise.
type painter struct {
	colours bool
	advice
}

// newPainter colours what is printed on a terminal, unless NO_COLOR asks for none (no-color.org).
func newPainter(w io.Writer, a advice) painter {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return painter{advice: a}
	}
	info, err := f.Stat()
	return painter{err == nil && info.Mode()&os.ModeCharDevice != 0, a}
}

func (p painter) paint(c colour, s string) string {
	if !p.colours {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// wrap breaks a text after lead at spaces so that it fits the page; lines after the first are
// indented by indent columns. A word that is longer than a line stays whole, and so does a command in
// backquotes: both are there to be copied.
func wrap(lead, text string, indent int) string {
	var b strings.Builder
	b.WriteString(lead)
	column := utf8.RuneCountInString(lead)
	for i, word := range words(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > pageWidth:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}

// words are those of a text; what stands in backquotes is one, with what is joined to it.
func words(text string) (out []string) {
	open := false
	for i, word := range strings.Fields(text) {
		if i > 0 && open {
			out[len(out)-1] += " " + word
		} else {
			out = append(out, word)
		}
		open = open != (strings.Count(word, "`")%2 == 1)
	}
	return out
}

// fit cuts a text to n columns.
func fit(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// short is a duration in one unit: "34s", "12m", "71h", "12d".
func short(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%s%ds", sign, int(d.Round(time.Second)/time.Second))
	case d < 2*time.Hour:
		return fmt.Sprintf("%s%dm", sign, int(d/time.Minute))
	case d < 96*time.Hour:
		return fmt.Sprintf("%s%dh", sign, int(d/time.Hour))
	}
	return fmt.Sprintf("%s%dd", sign, int(d/(24*time.Hour)))
}

// count is a number of things: "1 intention", "2 intentions", "0 proxies".
func count(n int, one string) string {
	switch {
	case n == 1:
		return "1 " + one
	case strings.HasSuffix(one, "y"):
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(one, "y"))
	}
	return fmt.Sprintf("%d %ss", n, one)
}
