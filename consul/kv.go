package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// ErrDenied is that the token may not do what was asked for.
var ErrDenied = errors.New("denied by Consul's ACLs")

// KeyValue is what a key of Consul's KV store has.
type KeyValue struct {
	Value []byte
	// Index is that of its last change (ModifyIndex); 0: there is no such key.
	Index uint64
}

// keyAnswer is how the agent tells it (Consul HTTP API, "KV store").
type keyAnswer struct {
	Value       []byte // base64, or null
	ModifyIndex uint64
}

func keyPath(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "/v1/kv/" + strings.Join(parts, "/")
}

func decodeKey(body []byte) (KeyValue, error) {
	list, err := decodeList[keyAnswer](body)
	switch {
	case err != nil:
		return KeyValue{}, err
	case len(list) != 1:
		return KeyValue{}, fmt.Errorf("it is a list of %d keys", len(list))
	case list[0].ModifyIndex == 0:
		return KeyValue{}, errors.New("it has no index")
	}
	return KeyValue{Value: list[0].Value, Index: list[0].ModifyIndex}, nil
}

// denied marks err if it says that the token has not the rights.
func denied(err error) error {
	if hasStatus(err, http.StatusForbidden) {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return err
}

// keyBurst is how many changes of a key are seen at once: people make them, one after the other, and wait.
const keyBurst = 30

// WatchKey calls got with what a key has, as a leader that is one knows it, at first and whenever it changes, and failed with why that is
// not known now, until ctx ends. It may be called while Run runs alone.
func (a *Agent) WatchKey(ctx context.Context, key string, got func(KeyValue), failed func(error)) {
	q := query[KeyValue]{
		client: a.client, metrics: a.metrics, first: true, absent: true, retry: selfRetry, burst: keyBurst,
		path: keyPath(key), params: consistent(nil), decode: decodeKey,
		got: func(v KeyValue, _ meta) { got(v) },
		failed: func(err error) bool {
			failed(denied(err))
			return false
		},
	}
	_ = q.run(ctx)
}

// Key is what a key has now. An empty token is the control plane's own.
func (a *Agent) Key(ctx context.Context, token, key string) (KeyValue, error) {
	got, err := a.client.do(ctx, request{path: keyPath(key), params: consistent(nil), caller: token != "", token: token})
	switch {
	case hasStatus(err, http.StatusNotFound):
		return KeyValue{}, nil
	case err != nil:
		return KeyValue{}, denied(err)
	}
	v, err := decodeKey(got.body)
	if err != nil {
		return v, fmt.Errorf("%w: %w", errGarbled, err)
	}
	return v, nil
}

// SwapKey has a key have value, if its last change is that of index still; 0: if there is no such key. It reports whether it was so.
// An empty token is the control plane's own.
func (a *Agent) SwapKey(ctx context.Context, token, key string, value []byte, index uint64) (swapped bool, err error) {
	got, err := a.client.do(ctx, request{
		method: http.MethodPut, path: keyPath(key), params: url.Values{"cas": {strconv.FormatUint(index, 10)}}, text: value, caller: token != "", token: token,
	})
	if err != nil {
		return false, denied(err)
	}
	switch text := strings.TrimSpace(string(got.body)); text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return false, fmt.Errorf("%w: %.40q", errGarbled, text)
	}
}
