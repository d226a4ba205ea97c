package files

import (
	"slices"
	"strings"
	"testing"
)

// TestDiscreet breaks files with a secret in them in every place: no error of a parser shows it.
func TestDiscreet(t *testing.T) {
	const secret = "hunter2hunter2"
	foreign := []string{
		secret, secret + "\n", "password=" + secret + "\n", "password: " + secret + "\n", "root:" + secret + ":0:0:root:/root:/bin/sh\n",
		"-----BEGIN PRIVATE KEY-----\n" + secret + "\n-----END PRIVATE KEY-----\n", `{"auth": ` + secret + `}`, `["` + secret + `" "x"]`,
		"a: *" + secret + "\n", "a: !!int " + secret + "\n", "a: !" + secret + " b\n", `"` + secret + `" "x"` + "\n", "a = " + secret + "(1)\n", "[" + secret + "]\nx=y\n",
	}
	ours := map[string]string{
		"hcl":  "service {\n  name = \"web\"\n  token = \"" + secret + "\"\n}\n",
		"json": "{\"service\": {\n\"name\": \"web\",\n\"token\": \"" + secret + "\"\n}}\n",
		"yaml": "service:\n  name: web\n  token: \"" + secret + "\"\n",
	}
	tried, wrong := 0, 0
	look := func(format, text string) {
		tried++
		_, err := parse("a."+format, []byte(text))
		if err == nil {
			return
		}
		if strings.Contains(text, "service") && !strings.Contains(text, "token") {
			return // nothing says that there is a secret
		}
		if wrong++; strings.Contains(err.Text, secret[:8]) || strings.Contains(err.Text, secret[6:]) {
			t.Errorf("%s, %q: %s", format, text, err.Text)
		}
	}
	for _, format := range []string{"hcl", "json", "yaml"} {
		texts := slices.Clone(foreign)
		texts = append(texts, ours[format])
		for _, text := range texts {
			look(format, text)
			for n := range len(text) + 1 {
				for _, c := range []string{"\"", "'", "{", "}", "[", "]", ":", "=", ",", " ", "\n", "\t", "*", "&", "!", "$", "(", "0"} {
					look(format, text[:n]+c+text[n:])
					if n < len(text) {
						look(format, text[:n]+c+text[n+1:])
					}
				}
				if n < len(text) {
					look(format, text[:n]+text[n+1:])
				}
			}
		}
	}
	if wrong < tried/3 {
		t.Errorf("only %d of %d texts were wrong", wrong, tried)
	}
	t.Logf("%d texts, %d errors", tried, wrong)
}
