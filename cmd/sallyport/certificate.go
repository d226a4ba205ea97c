package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// recheckFiles is how often the files of a certificate are looked at, at most.
const recheckFiles = time.Second

// certificateFiles are a certificate and its key that somebody else renews. Make them with openCertificate.
type certificateFiles struct {
	cert, key string
	log       *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	seen    [2]fileStamp
	checked time.Time
	failed  string // why they could not be read; empty: they could
}

// fileStamp tells two contents of a file apart.
type fileStamp struct {
	modified time.Time
	size     int64
}

// openCertificate reads a certificate with its chain, and its key, both in PEM.
func openCertificate(cert, key string, log *slog.Logger) (*certificateFiles, error) {
	c := &certificateFiles{cert: cert, key: key, log: log, checked: time.Now()}
	var err error
	if c.seen, err = c.stamps(); err == nil {
		c.current, err = c.read()
	}
	return c, err
}

func (c *certificateFiles) stamps() (out [2]fileStamp, err error) {
	for i, path := range []string{c.cert, c.key} {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return out, err
		case !info.Mode().IsRegular():
			return out, fmt.Errorf("%s is not a regular file", path)
		case i == 1 && info.Mode().Perm()&0o007 != 0:
			return out, fmt.Errorf("%s: mode %#o lets everybody at the key: chmod o= %[1]s", path, info.Mode().Perm())
		}
		out[i] = fileStamp{info.ModTime(), info.Size()}
	}
	return out, nil
}

func (c *certificateFiles) read() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", c.cert, c.key, err)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("%s: ended at %s: renew it", c.cert, pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return &pair, nil
}

// certificate is a tls.Config's GetCertificate. Files that changed are read again; if that fails the last certificate stays, as it may be
// that one of the two is still to come.
func (c *certificateFiles) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= recheckFiles {
		c.checked = now
		c.follow()
	}
	return c.current, nil
}

// follow takes what the files have now. c.mu is held.
func (c *certificateFiles) follow() {
	seen, err := c.stamps()
	if err == nil && seen == c.seen && c.failed == "" {
		return
	}
	var next *tls.Certificate
	if err == nil {
		next, err = c.read()
	}
	c.seen = seen
	if err != nil {
		if c.failed != err.Error() {
			c.log.Error("certificate of the HTTP API not read, the last one stays in use", "err", err)
		}
		c.failed = err.Error()
		return
	}
	c.current, c.failed = next, ""
	c.log.Info("certificate of the HTTP API read again", "audit", "rotation", "file", c.cert, "serial", next.Leaf.SerialNumber.Text(16), "expires", next.Leaf.NotAfter)
}

// tlsConfig is a server's: TLS 1.2 or newer, HTTP/1.1.
func (c *certificateFiles) tlsConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.certificate, NextProtos: []string{"http/1.1"}}
}
