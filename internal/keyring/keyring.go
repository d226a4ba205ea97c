// Package keyring encrypts files that hold private keys, by age (C2SP, age-encryption.org/v1): to the first identity of a file that the
// operator gives, so that a copy of the data directory without that file is worth nothing. It keeps secrets; it does not show who wrote a
// file, as anybody can encrypt to a recipient.
//
// A nil *Keyring encrypts nothing. All methods may be used by several goroutines.
package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"syscall"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Keyring is the identities of a file.
type Keyring struct {
	file       string
	log        *slog.Logger
	identities []age.Identity
	recipient  age.Recipient // the first identity's
}

// maxFile bounds the file of identities, in bytes, and maxPlain what was encrypted.
const maxFile, maxPlain = 64 << 10, 1 << 20

// Open reads the identities in file, as age-keygen writes them: the first one encrypts, each decrypts. The error says what is wrong with the
// file, and never what is in it. log gets which files are encrypted; nil: nothing is logged.
func Open(file string, log *slog.Logger) (*Keyring, error) {
	text, err := read(file)
	if err != nil {
		return nil, fmt.Errorf("--ca-key-file: %w", err)
	}
	k := &Keyring{file: file, log: log}
	if log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		identity, recipient, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("--ca-key-file: %s:%d: %w", file, i+1, err)
		}
		if k.identities = append(k.identities, identity); k.recipient == nil {
			k.recipient = recipient
		}
	}
	if k.recipient == nil {
		return nil, fmt.Errorf("--ca-key-file: %s: holds no identity: make one with age-keygen -o %s", file, file)
	}
	return k, nil
}

// read returns the bytes of a file that only its owner and root can have written, and only they and, of root's, one group can read: systemd
// gives credentials to a service that way.
func read(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // what lies there may be a pipe
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	owner, most := os.Geteuid(), fs.FileMode(0o600)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(st.Uid)
	}
	if owner == 0 {
		most = 0o640
	}
	switch perm := info.Mode().Perm(); {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: is not a regular file", file)
	case owner != 0 && owner != os.Geteuid():
		return nil, fmt.Errorf("%s: belongs to user %d, who is neither root nor the one that sallyport runs as: chown it", file, owner)
	case perm&^(most|0o100) != 0:
		return nil, fmt.Errorf("%s: mode %04o lets others at the identity: chmod %04o it, and make a new one if others could read it", file, perm, most)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s: has %d bytes, which no file of identities has", file, info.Size())
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// parse reads a line. The errors of age are not wrapped: they may quote it.
func parse(line string) (age.Identity, age.Recipient, error) {
	switch {
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		return nil, nil, errors.New("an identity of an age plug-in, which sallyport does not run: for keys in hardware let a plug-in sign (docs/certificates/hsm.md)")
	case strings.HasPrefix(line, "age1"):
		return nil, nil, errors.New("a recipient, the public half: put the identity there, which begins with AGE-SECRET-KEY-1")
	case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
		if i, err := age.ParseHybridIdentity(line); err == nil {
			return i, i.Recipient(), nil
		}
	default:
		if i, err := age.ParseX25519Identity(line); err == nil {
			return i, i.Recipient(), nil
		}
	}
	return nil, nil, errors.New("not an identity as age-keygen writes it, AGE-SECRET-KEY-1…")
}

// The first line of an encrypted file is in clear, and says what is in it. The rest is age's armor.
const (
	headWords = "sallyport "
	headTail  = ", format 2, age"
)

// Seal is a file's content for plain, which name describes in a few words, in one line: encrypted, unless k is nil.
func (k *Keyring) Seal(name string, plain []byte) ([]byte, error) {
	if k == nil {
		return plain, nil
	}
	var b bytes.Buffer
	b.WriteString(headWords + name + headTail + "\n")
	text := armor.NewWriter(&b)
	w, err := age.Encrypt(text, k.recipient)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(plain)
	if err := errors.Join(err, w.Close(), text.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// sealed is what is encrypted of a file's content; ok is false if it is in clear.
func sealed(data []byte) (text []byte, ok bool) {
	head, text, found := bytes.Cut(data, []byte("\n"))
	if bytes.HasPrefix(data, []byte(armor.Header)) {
		return data, true // somebody has taken the first line away
	}
	return text, found && bytes.HasPrefix(head, []byte(headWords)) && bytes.HasSuffix(head, []byte(headTail))
}

// Unseal is what Seal was given for data, the content of file. current is false if Seal would now do otherwise: encrypt what is in clear, or
// to another identity. The error, which says how to mend it, is that data cannot be decrypted.
func (k *Keyring) Unseal(file string, data []byte) (plain []byte, current bool, err error) {
	text, ok := sealed(data)
	switch {
	case !ok:
		return data, k == nil, nil
	case k == nil:
		return nil, false, fmt.Errorf("%s: is encrypted: name the file of its age identity with --ca-key-file (ca_key_file, SALLYPORT_CA_KEY_FILE)", file)
	}
	for i, identity := range k.identities {
		plain, err = decrypt(text, identity)
		if err == nil {
			return plain, i == 0, nil
		}
		if wrong := (*age.NoIdentityMatchError)(nil); !errors.As(err, &wrong) {
			// The error may quote what is there, which may be in clear.
			return nil, false, fmt.Errorf("%s: is damaged, as it cannot be decrypted: restore it from a backup", file)
		}
	}
	return nil, false, fmt.Errorf("%s: no identity in %s decrypts it: add the one that it was encrypted to, a line of its own, or restore the file from a backup of which you have the identity", file, k.file)
}

func decrypt(text []byte, identity age.Identity) ([]byte, error) {
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(text)), identity)
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxPlain+1))
	if err == nil && len(plain) > maxPlain {
		err = errors.New("too long")
	}
	return plain, err
}

// Renew has write replace file by what Seal makes of plain, and logs it: for what Unseal says is not current. A file that cannot be replaced
// stays as it is, and is tried again at the next start.
func (k *Keyring) Renew(file, name string, plain []byte, write func([]byte) error) {
	data, err := k.Seal(name, plain)
	if err == nil {
		err = write(data)
	}
	if err != nil {
		k.log.Error("a file with a private key is not encrypted to the first identity, and stays as it was", "audit", "custody", "file", file, "err", err)
		return
	}
	k.log.Info("a file with a private key is now encrypted to the first identity", "audit", "custody", "file", file)
}

// String is the file of the identities alone.
func (k *Keyring) String() string {
	if k == nil {
		return "no keyring"
	}
	return "keyring " + k.file
}

// GoString is String.
func (k *Keyring) GoString() string { return k.String() }

// Format is String, whatever the verb.
func (k *Keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue is String.
func (k *Keyring) LogValue() slog.Value { return slog.StringValue(k.String()) }
