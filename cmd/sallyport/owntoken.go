package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
)

// anonymous is the secret of Consul's anonymous token, which is whoever brings none.
const anonymous = "anonymous"

// ownToken is a proxy's Consul ACL token, as the one who starts the proxy knows it: in a file or, if file is empty, as it is.
type ownToken struct{ file, value string }

// ownTokenFrom finds a proxy's token where `consul connect envoy` would: the flag, CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_TOKEN.
func ownTokenFrom(flag string, variable func(string) string) ownToken {
	switch file := variable("CONSUL_HTTP_TOKEN_FILE"); {
	case flag != "":
		return ownToken{file: flag}
	case file != "":
		return ownToken{file: file}
	}
	return ownToken{value: variable("CONSUL_HTTP_TOKEN")}
}

// current is the token as of now. An empty file is an error: it is about to be written.
func (o ownToken) current() (string, error) {
	if o.file == "" {
		if o.value == "" {
			return anonymous, nil
		}
		return o.value, nil
	}
	b, err := os.ReadFile(o.file)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("token file %s is empty", o.file)
	}
	return token, nil
}

// ownTokenEvery is how often the token's file is looked at. It is read whole: it is small, and may be replaced in any way.
const ownTokenEvery = time.Second

// follow writes the token whenever its file holds another one than last, until ctx ends. What cannot be read changes nothing.
func (o ownToken) follow(ctx context.Context, last string, write func(string) error, log *slog.Logger) {
	if o.file == "" {
		return
	}
	said := ""
	tick := time.NewTicker(ownTokenEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		token, err := o.current()
		if err == nil && token != last {
			if err = write(token); err == nil {
				last = token
				log.Info("token replaced; the next stream uses it", "file", o.file)
			}
		}
		switch {
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			log.Warn("token not read again; Envoy goes on with the last one", "err", err)
		}
	}
}

var errOwnToken = errors.New("--token-file: this control plane makes the tokens itself")
