package main

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/sallyport/sallyport/internal/keyring"
)

// keyring is what encrypts the private keys in the data directory; nil: nothing does.
func (c serveConfig) keyring(log *slog.Logger) (*keyring.Keyring, error) {
	if c.CAKeyFile == "" {
		return nil, nil //nolint:nilnil // a nil keyring encrypts nothing
	}
	file, err := filepath.EvalSymlinks(c.CAKeyFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-key-file: %w", err)
	}
	if data, err := filepath.EvalSymlinks(c.Data); err == nil {
		if rel, err := filepath.Rel(data, file); err == nil && filepath.IsLocal(rel) {
			return nil, fmt.Errorf("--ca-key-file: %s is in the data directory, so whoever copies that has what decrypts it: keep it elsewhere, as systemd's credentials do", c.CAKeyFile)
		}
	}
	return keyring.Open(c.CAKeyFile, log)
}
