package files

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/intention"
	"go.yaml.in/yaml/v3"
)

// EditRevoked is the text of a YAML file of revocations, empty as long as there is none, with those taken out that drop reports (nil: none), and with add at its
// end. What else stands in it stays as it is, comments and blank lines too, but for the comment right above what is taken out. A
// file that is not written as a block (one thing per line, as FormatRevoked writes them) is written anew, without its comments. The
// error is that the file has a mistake, or that there would be too many revocations.
func EditRevoked(name string, src []byte, drop func(intention.Revocation) bool, add []intention.Revocation) ([]byte, error) {
	var had []intention.Revocation
	var err error
	if len(src) > 0 { // else there is no file yet
		if had, err = ParseRevoked(name, src); err != nil {
			return nil, err
		}
	}
	dropped := make([]bool, len(had))
	var want []intention.Revocation
	for i, r := range had {
		if dropped[i] = drop != nil && drop(r); !dropped[i] {
			want = append(want, r)
		}
	}
	want = append(want, add...)
	whole, err := FormatRevoked(want) // which judges what is added
	if err != nil {
		return nil, err
	}
	edited, ok := editLines(src, dropped, add)
	if !ok && len(had) == 0 {
		edited, ok = begin(src, whole), true
	}
	if ok {
		if got, err := ParseRevoked(name, edited); err == nil && slices.EqualFunc(got, want, sameBut) {
			return edited, nil
		}
	}
	return whole, nil
}

// sameBut reports whether two revocations say the same, wherever they are written.
func sameBut(a, b intention.Revocation) bool {
	return a.ID == b.ID && a.Serial == b.Serial && a.SHA256 == b.SHA256 && moment(a.Until) == moment(b.Until) && a.Reason == b.Reason && a.By == b.By && moment(a.At) == moment(b.At)
}

// begin is the list of whole below the comments that src begins with.
func begin(src, whole []byte) []byte {
	var head []byte
	for line := range bytes.Lines(src) {
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' {
			break
		}
		head = append(head, line...)
	}
	if len(bytes.TrimSpace(head)) == 0 {
		return whole
	}
	_, list, _ := bytes.Cut(whole, []byte("revoked:"))
	return append(append(head, "revoked:"...), list...)
}

// editLines is src without the lines of what is dropped, and with those of what is added. ok is false if it cannot tell whose a line
// is. It may err: the caller reads what comes out.
func editLines(src []byte, dropped []bool, add []intention.Revocation) (_ []byte, ok bool) {
	var document yaml.Node
	if err := yaml.Unmarshal(src, &document); err != nil || len(document.Content) != 1 {
		return nil, false
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode || len(root.Content) != 2 || root.Content[1].Kind != yaml.SequenceNode {
		return nil, false
	}
	list := root.Content[1]
	if list.Style&yaml.FlowStyle != 0 || len(list.Content) != len(dropped) || len(dropped) == 0 {
		return nil, false
	}
	lines := bytes.SplitAfter(src, []byte("\n"))
	if last := len(lines) - 1; len(lines[last]) == 0 {
		lines = lines[:last]
	} else {
		lines[last] = append(slices.Clip(lines[last]), '\n')
	}
	remark := func(n int) bool { // counted from 1
		text := bytes.TrimSpace(lines[n-1])
		return len(text) > 0 && text[0] == '#'
	}
	blank := func(n int) bool { return len(bytes.TrimSpace(lines[n-1])) == 0 }
	out := make([]bool, len(lines)) // which lines go
	end := len(lines)               // the last line of the last one
	for i, item := range list.Content {
		first, last := item.Line, len(lines)
		if i+1 < len(list.Content) {
			last = list.Content[i+1].Line - 1
		}
		for last > first && (remark(last) || blank(last)) { // they are the next one's, or the file's
			last--
		}
		end = last
		if !dropped[i] {
			continue
		}
		for first > root.Content[0].Line+1 && remark(first-1) {
			first--
		}
		for n := first; n <= last; n++ {
			out[n-1] = true
		}
	}
	var b bytes.Buffer
	indent := strings.Repeat(" ", max(list.Content[0].Column-3, 0))
	for n, line := range lines {
		if !out[n] {
			b.Write(line)
		}
		if n+1 != end {
			continue
		}
		for _, r := range add {
			text, err := FormatRevocation(r)
			if err != nil {
				return nil, false
			}
			for l := range strings.Lines(text) {
				b.WriteString(indent + l)
			}
		}
	}
	return b.Bytes(), true
}

// FormatRevocation is how a revocation is written in the list of RevokedFile, for people. The error is that it cannot be written.
func FormatRevocation(r intention.Revocation) (string, error) {
	for _, text := range []string{r.Reason, r.By} {
		if _, err := words(text); err != nil {
			return "", err
		}
	}
	text, err := yaml.Marshal([]writtenRevocation{writtenOf(r)})
	if err != nil {
		return "", errors.Join(errors.New("the revocation cannot be written"), err)
	}
	return string(text), nil
}
