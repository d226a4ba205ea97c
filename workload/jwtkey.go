package workload

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/go-jose/go-jose/v4"
	"github.com/sallyport/sallyport/internal/atomicfile"
)

// PEM types of the two blocks of a key file. The public key shows whether the private one is
// damaged: nearly any 32 bytes are a key.
const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
	maxKeyFile   = 16 << 10
)

// JWTKey signs JWT-SVIDs, by ES256. It is immutable.
type JWTKey struct {
	private *ecdsa.PrivateKey
	id      string
	bundle  []byte // the public key as SPIFFE's JWKS
}

// OpenJWTKey reads the key in file, or makes it. The error says what is wrong with the file and how
// to mend it.
func OpenJWTKey(file string) (*JWTKey, error) {
	private, err := readKey(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(file); err != nil {
			return nil, fmt.Errorf("key of JWT-SVIDs: %w", err)
		}
		// Read back: another process may have made its own first, and then that one holds.
		private, err = readKey(file)
	}
	if err != nil {
		return nil, fmt.Errorf("key of JWT-SVIDs: %w", err)
	}
	public := jose.JSONWebKey{Key: private.Public()}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("key of JWT-SVIDs: %w", err)
	}
	k := &JWTKey{private: private, id: base64.RawURLEncoding.EncodeToString(thumbprint)}
	k.bundle, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: private.Public(), KeyID: k.id, Use: "jwt-svid"}}})
	return k, err
}

// String is the key's ID; the key itself is never printed.
func (k *JWTKey) String() string { return "JWT-SVID key " + k.id }

// GoString is String.
func (k *JWTKey) GoString() string { return k.String() }

func readKey(file string) (*ecdsa.PrivateKey, error) {
	// O_NOFOLLOW and O_NONBLOCK: what lies in the place of the file may be a link or a pipe.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := checkKeyFile(f); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: is damaged: %w: restore it from a backup, or remove it to have a new one made", file, err)
	}
	return key, nil
}

// checkKeyFile refuses a file that somebody else can read or could have written.
func checkKeyFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("is not a regular file: put the file itself there")
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("mode %04o gives other users access to it: chmod 600 it if nobody can have used it, else remove it", perm)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("belongs to user %d, the control plane runs as user %d: chown it, or remove it", st.Uid, os.Geteuid())
	}
	return nil
}

func decodeKey(text []byte) (*ecdsa.PrivateKey, error) {
	if len(text) > maxKeyFile {
		return nil, errors.New("too long")
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != privateBlock {
		return nil, errors.New("no " + privateBlock + " block")
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// The parser's error may quote the key, so it is not wrapped.
		return nil, errors.New("unreadable " + privateBlock + " block")
	}
	block, rest = pem.Decode(rest)
	if block == nil || block.Type != publicBlock {
		return nil, errors.New("no " + publicBlock + " block")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errors.New("unreadable " + publicBlock + " block")
	}
	key, ok := private.(*ecdsa.PrivateKey)
	switch {
	case !ok || key.Curve != elliptic.P256():
		return nil, errors.New("not a key on the curve P-256")
	case !key.PublicKey.Equal(public):
		return nil, errors.New("its two keys do not belong together")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("something follows the keys")
	}
	return key, nil
}

// makeKey writes a new key to file unless there is one by then. Nobody ever sees half a file.
func makeKey(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: public})...)
	if err := atomicfile.Create(file, text); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
