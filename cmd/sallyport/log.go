package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
)

// newLogger returns the logger for a format (auto, text or json) and a level. Commands that its lines
// advise are completed by a.
func newLogger(format, level string, w *os.File, a advice) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %q is none of debug, info, warn and error", level)
	}
	opts := &slog.HandlerOptions{Level: l, ReplaceAttr: a.attr}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	case "text", "auto":
		if info, err := w.Stat(); format == "auto" && err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return slog.New(&plainHandler{w: w, mu: &sync.Mutex{}, level: l, advice: a}), nil
		}
		return slog.New(slog.NewTextHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("--log-format: %q is none of auto, text and json", format)
}

// plainHandler writes lines for people at a terminal: time, message, and what it is about.
type plainHandler struct {
	w     io.Writer
	mu    *sync.Mutex
	level slog.Level
	with  string
	// advice completes the commands that lines advise.
	advice advice
}

func (h *plainHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *plainHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Time.Format("15:04:05 "))
	if r.Level != slog.LevelInfo {
		b.WriteString(strings.ToLower(r.Level.String()) + ": ")
	}
	b.WriteString(h.advice.text(r.Message) + h.with)
	r.Attrs(func(a slog.Attr) bool { b.WriteString(plain(h.advice.attr(nil, a))); return true })
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *plainHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	for _, a := range attrs {
		c.with += plain(h.advice.attr(nil, a))
	}
	return &c
}

// WithGroup ignores the group: nobody here opens one.
func (h *plainHandler) WithGroup(string) slog.Handler { return h }

func plain(a slog.Attr) string { return ", " + a.Key + " " + oneLine(a.Value.Resolve().String()) }

// oneLine keeps what others wrote (Envoy's words, names out of files) from moving the cursor or
// forging a line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
