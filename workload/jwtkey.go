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
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/latest"
)

// PEM types of the two blocks of a key. The public key shows whether the private one is
// damaged: nearly any 32 bytes are a key.
const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
	maxKeyFile   = 16 << 10
	// keyName is what an encrypted file says of itself in clear.
	keyName = "JWT-SVID keys"
	// maxJWTKeys are one that signs, the next and the last; who reads more has another file.
	maxJWTKeys = 3
)

// jwtKey is a key of JWT-SVIDs. It is immutable.
type jwtKey struct {
	private *ecdsa.PrivateKey
	id      string
	// of is the rotation for which it was made, empty for the first key; signs is since when it signs, zero: it does not, or did from the
	// start.
	of    string
	signs time.Time
}

// The headers of a key's block in its file.
const (
	ofHeader    = "Rotation"
	signsHeader = "Signs"
)

func newJWTKey(private *ecdsa.PrivateKey) (jwtKey, error) {
	public := jose.JSONWebKey{Key: private.Public()}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	return jwtKey{private: private, id: base64.RawURLEncoding.EncodeToString(thumbprint)}, err
}

// JWTKeys sign JWT-SVIDs, by ES256. Open makes them, Run replaces the key when the CA's root is replaced.
type JWTKeys struct {
	file string
	keys *keyring.Keyring
	// current is what is on the disk.
	current latest.Value[*jwtKeys]
}

// jwtKeys are the keys at one time, of which the first signs and all verify. They are immutable.
type jwtKeys struct {
	list   []jwtKey
	bundle []byte // the public keys as SPIFFE's JWKS
}

func newJWTKeys(list []jwtKey) (*jwtKeys, error) {
	var set jose.JSONWebKeySet
	for _, k := range list {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Use: "jwt-svid"})
	}
	bundle, err := json.Marshal(set)
	return &jwtKeys{list, bundle}, err
}

// OpenJWTKeys reads the keys in file, or makes the first one. keys encrypt the file; nil: it is in clear. The error says what is wrong
// with the file and how to mend it.
func OpenJWTKeys(file string, keys *keyring.Keyring) (*JWTKeys, error) {
	list, err := readKeys(file, keys)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(file, keys); err != nil {
			return nil, fmt.Errorf("key of JWT-SVIDs: %w", err)
		}
		// Read back: another process may have made its own first, and then that one holds.
		list, err = readKeys(file, keys)
	}
	if err != nil {
		return nil, fmt.Errorf("key of JWT-SVIDs: %w", err)
	}
	current, err := newJWTKeys(list)
	if err != nil {
		return nil, fmt.Errorf("key of JWT-SVIDs: %w", err)
	}
	k := &JWTKeys{file: file, keys: keys}
	k.current.Set(current)
	return k, nil
}

// load is what is on the disk.
func (k *JWTKeys) load() *jwtKeys {
	current, _ := k.current.Load()
	return current
}

// String is the ID of the key that signs; keys are never printed.
func (k *JWTKeys) String() string { return "JWT-SVID key " + k.load().list[0].id }

// GoString is String.
func (k *JWTKeys) GoString() string { return k.String() }

func readKeys(file string, keys *keyring.Keyring) ([]jwtKey, error) {
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
	text, current, err := keys.Unseal(file, text)
	if err != nil {
		return nil, err
	}
	list, err := decodeKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: is damaged: %w: restore it from a backup, or remove it to have a new one made", file, err)
	}
	if !current {
		keys.Renew(file, keyName, text, func(data []byte) error { return atomicfile.Replace(file, data) })
	}
	return list, nil
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

// decodeKeys reads a private and a public block for each key.
func decodeKeys(text []byte) (list []jwtKey, err error) {
	if len(text) > maxKeyFile {
		return nil, errors.New("too long")
	}
	for rest := text; len(bytes.TrimSpace(rest)) > 0 || len(list) == 0; {
		var k jwtKey
		if k, rest, err = decodeKey(rest); err != nil {
			return nil, err
		}
		if list = append(list, k); len(list) > maxJWTKeys {
			return nil, errors.New("too many keys")
		}
	}
	return list, nil
}

func decodeKey(text []byte) (k jwtKey, rest []byte, err error) {
	head, rest := pem.Decode(text)
	if head == nil || head.Type != privateBlock {
		return k, nil, errors.New("no " + privateBlock + " block")
	}
	private, err := x509.ParsePKCS8PrivateKey(head.Bytes)
	if err != nil {
		// The parser's error may quote the key, so it is not wrapped.
		return k, nil, errors.New("unreadable " + privateBlock + " block")
	}
	block, rest := pem.Decode(rest)
	if block == nil || block.Type != publicBlock {
		return k, nil, errors.New("no " + publicBlock + " block")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return k, nil, errors.New("unreadable " + publicBlock + " block")
	}
	key, ok := private.(*ecdsa.PrivateKey)
	switch {
	case !ok || key.Curve != elliptic.P256():
		return k, nil, errors.New("not a key on the curve P-256")
	case !key.PublicKey.Equal(public):
		return k, nil, errors.New("its two keys do not belong together")
	}
	if k, err = newJWTKey(key); err != nil {
		return k, nil, err
	}
	k.of = head.Headers[ofHeader]
	if signs := head.Headers[signsHeader]; signs != "" {
		if k.signs, err = time.Parse(time.RFC3339Nano, signs); err != nil {
			return k, nil, errors.New("a time that cannot be read")
		}
	}
	return k, rest, nil
}

// encodeKeys is the reverse of decodeKeys.
func encodeKeys(list []jwtKey) ([]byte, error) {
	var text []byte
	for _, k := range list {
		private, err := x509.MarshalPKCS8PrivateKey(k.private)
		if err != nil {
			return nil, err
		}
		public, err := x509.MarshalPKIXPublicKey(k.private.Public())
		if err != nil {
			return nil, err
		}
		headers := map[string]string{}
		if k.of != "" {
			headers[ofHeader] = k.of
		}
		if !k.signs.IsZero() {
			headers[signsHeader] = k.signs.UTC().Format(time.RFC3339Nano)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: privateBlock, Headers: headers, Bytes: private})...)
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: public})...)
	}
	return text, nil
}

// generateKey makes a key for a rotation; empty: the first one.
func generateKey(of string) (jwtKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return jwtKey{}, err
	}
	k, err := newJWTKey(private)
	k.of = of
	return k, err
}

// makeKey writes a new key to file unless there is one by then. Nobody ever sees half a file.
func makeKey(file string, keys *keyring.Keyring) error {
	k, err := generateKey("")
	if err != nil {
		return err
	}
	text, err := encodeKeys([]jwtKey{k})
	if err != nil {
		return err
	}
	if text, err = keys.Seal(keyName, text); err != nil {
		return err
	}
	if err := atomicfile.Create(file, text); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
