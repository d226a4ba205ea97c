package sidecar

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
)

// anonymous is the secret of Consul's anonymous token, which is whoever brings none.
const anonymous = "anonymous"

// aclToken is a proxy's own Consul ACL token, as the one who starts the proxy knows it: in a file
// or, if file is empty, as it is.
type aclToken struct{ file, value string }

// findACLToken finds a proxy's token where `consul connect envoy` would: the flag,
// CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_TOKEN.
func findACLToken(flag string, variable func(string) string) aclToken {
	if file := cmp.Or(flag, variable("CONSUL_HTTP_TOKEN_FILE")); file != "" {
		return aclToken{file: file}
	}
	return aclToken{value: cmp.Or(variable("CONSUL_HTTP_TOKEN"), anonymous)}
}

// current is the token as of now. An empty file is an error: it is about to be written.
func (a aclToken) current() (string, error) {
	if a.file == "" {
		return a.value, nil
	}
	b, err := os.ReadFile(a.file)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("token file %s is empty", a.file)
	}
	return token, nil
}

// aclTokenInterval is how often the token's file is read. It is read whole: it is small, and may
// be replaced in any way.
const aclTokenInterval = time.Second

// follow writes the token whenever its file holds another one than last, until ctx ends. A file
// that cannot be read changes nothing.
func (a aclToken) follow(ctx context.Context, last string, write func(string) error, log *slog.Logger) {
	if a.file == "" {
		return
	}
	logged := ""
	for sleepUntil(ctx, time.Now().Add(aclTokenInterval)) {
		token, err := a.current()
		if err == nil && token != last {
			if err = write(token); err == nil {
				last = token
				log.Info("token replaced; the next stream uses it", "file", a.file)
			}
		}
		switch {
		case err == nil:
			logged = ""
		case err.Error() != logged:
			logged = err.Error()
			log.Warn("token not replaced; Envoy keeps the last one", "err", err)
		}
	}
}
