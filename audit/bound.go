package audit

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// maxPerWindow is how many lines of a kind are written within a window, which the first one begins.
	maxPerWindow = 1000
	window       = time.Minute
)

// Bound bounds how many lines with the key "audit" a log has: 1,000 of a kind a minute. The next line
// of any kind after that is preceded by one with the number of those left out. All other lines pass.
func Bound(h slog.Handler) slog.Handler { return &bounded{Handler: h, kinds: &kinds{}} }

type bounded struct {
	slog.Handler
	*kinds
	kind string // of all lines; empty: each says it
}

// kinds are what was written of each kind.
type kinds struct {
	mu sync.Mutex
	of map[string]*lines
}

type lines struct {
	end     time.Time // of the window
	written int
	left    int // out
}

func (b *bounded) Handle(ctx context.Context, r slog.Record) error {
	kind := b.kind
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "audit" {
			kind = a.Value.String()
		}
		return kind == ""
	})
	left, ok := b.take(kind, r.Time)
	for _, k := range slices.Sorted(maps.Keys(left)) {
		note := slog.NewRecord(r.Time, slog.LevelInfo, "lines left out", 0)
		note.Add("audit", k, "count", left[k])
		if err := b.Handler.Handle(ctx, note); err != nil {
			return err
		}
	}
	if !ok {
		return nil
	}
	return b.Handler.Handle(ctx, r)
}

// take reports whether a line of a kind may be written, and how many were left out in windows that
// are over.
func (k *kinds) take(kind string, now time.Time) (left map[string]int, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, l := range k.of {
		if now.Before(l.end) {
			continue
		}
		if l.left > 0 {
			if left == nil {
				left = map[string]int{}
			}
			left[name] = l.left
		}
		delete(k.of, name)
	}
	if kind == "" {
		return left, true
	}
	l := k.of[kind]
	if l == nil {
		l = &lines{end: now.Add(window)}
		if k.of == nil {
			k.of = map[string]*lines{}
		}
		k.of[kind] = l
	}
	if l.written == maxPerWindow {
		l.left++
		return left, false
	}
	l.written++
	return left, true
}

func (b *bounded) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := &bounded{Handler: b.Handler.WithAttrs(attrs), kinds: b.kinds, kind: b.kind}
	for _, a := range attrs {
		if a.Key == "audit" {
			c.kind = a.Value.String()
		}
	}
	return c
}

func (b *bounded) WithGroup(name string) slog.Handler {
	return &bounded{Handler: b.Handler.WithGroup(name), kinds: b.kinds, kind: b.kind}
}
