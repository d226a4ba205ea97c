package token

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/keyring"
)

// PEM types of the two blocks of a key file. The public key shows whether the private one is
// damaged: any 32 bytes are an Ed25519 key.
const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
	maxKeyFile   = 16 << 10
	// keyName is what an encrypted file says of itself in clear.
	keyName = "token key"
)

// openKey reads the key in file, or makes it.
func openKey(file string, keys *keyring.Keyring) (ed25519.PrivateKey, error) {
	key, err := readKey(file, keys)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := makeKey(file, keys); err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	// Read back: another process may have made its own first, and then that one holds.
	return readKey(file, keys)
}

func readKey(file string, keys *keyring.Keyring) (ed25519.PrivateKey, error) {
	// O_NOFOLLOW and O_NONBLOCK: what lies in the place of the file may be a link or a pipe.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, fmt.Errorf("token key %s: is a symbolic link: put the file itself there", file)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("token key: %w: its owner must be the user that runs the control plane, its mode 0600", err)
	case err != nil:
		return nil, fmt.Errorf("token key: %w", err)
	}
	defer f.Close()
	if err := checkKeyFile(f); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	text, current, err := keys.Unseal(file, text)
	if err != nil {
		return nil, fmt.Errorf("token key %w", err)
	}
	key, err := decodeKey(text)
	if err != nil {
		return nil, fmt.Errorf("token key %s: is damaged: %w: restore it from a backup, or remove it to have a new one made; then every proxy needs a new token", file, err)
	}
	if !current {
		keys.Renew(file, keyName, text, func(data []byte) error { return atomicfile.Replace(file, data) })
	}
	return key, nil
}

// checkKeyFile refuses a file that somebody else can read or could have written.
func checkKeyFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("token key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("token key %s: is not a regular file", f.Name())
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("token key %s: mode %04o gives other users access to it: chmod 600 %s if nobody can have used it, else remove it; then every proxy needs a new token", f.Name(), perm, f.Name())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("token key %s: belongs to user %d, the control plane runs as user %d: chown it, or remove it; then every proxy needs a new token", f.Name(), st.Uid, os.Geteuid())
	}
	return nil
}

func decodeKey(text []byte) (ed25519.PrivateKey, error) {
	if len(text) > maxKeyFile {
		return nil, errors.New("too long")
	}
	var private, public any
	var err error
	block, rest := pem.Decode(text)
	if block == nil || block.Type != privateBlock {
		return nil, errors.New("no " + privateBlock + " block")
	}
	if private, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		// The parser's error may quote the key, so it is not wrapped.
		return nil, errors.New("unreadable " + privateBlock + " block")
	}
	block, rest = pem.Decode(rest)
	if block == nil || block.Type != publicBlock {
		return nil, errors.New("no " + publicBlock + " block")
	}
	if public, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return nil, errors.New("unreadable " + publicBlock + " block")
	}
	key, ok := private.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("not an Ed25519 key")
	}
	if pub, ok := key.Public().(ed25519.PublicKey); !ok || !pub.Equal(public) {
		return nil, errors.New("its two keys do not belong together")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("something follows the keys")
	}
	return key, nil
}

// makeKey writes a new key to file unless there is one by then. Nobody ever sees half a file.
func makeKey(file string, keys *keyring.Keyring) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: privateDER}), pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: publicDER})...)
	if text, err = keys.Seal(keyName, text); err != nil {
		return err
	}
	if err := atomicfile.Create(file, text); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
