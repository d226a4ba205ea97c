package atomicfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// sealWord begins the line that a sealed text ends with; the SHA-256 of all before it follows.
const sealWord = "sha256 "

// ErrSeal says that a text is not what was sealed.
var ErrSeal = errors.New("is damaged: it is not what was written, by its checksum")

// Seal returns text, which ends with a newline, with its checksum as one more line: it shows what a
// disk or a hand has changed, not who meant to deceive.
func Seal(text []byte) []byte {
	sum := sha256.Sum256(text)
	return append(bytes.Clone(text), sealWord+hex.EncodeToString(sum[:])+"\n"...)
}

// Unseal returns the text that was sealed. sealed is false for one without a checksum, which is
// returned as it is. The error is ErrSeal.
func Unseal(b []byte) (text []byte, sealed bool, err error) {
	at := bytes.LastIndexByte(bytes.TrimSuffix(b, []byte("\n")), '\n') + 1
	if !bytes.HasPrefix(b[at:], []byte(sealWord)) {
		return b, false, nil
	}
	if !bytes.Equal(Seal(b[:at]), b) {
		return nil, true, ErrSeal
	}
	return b[:at], true, nil
}
