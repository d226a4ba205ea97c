package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The files of a CA's directory. The root's is the state: all else can be made again with what is
// in it, so it is written first and never replaced by a new CA. Both are PEM with a line before and
// after, which openssl skips:
//
//	openssl x509 -in root.pem -noout -text
//	openssl verify -CAfile root.pem intermediate.pem
const (
	rootFile         = "root.pem"
	intermediateFile = "intermediate.pem"
)

// format is the version of the files.
const format = 1

const (
	headWords   = "sallyport CA "
	formatWords = ", format "
	// tail shows that nothing is cut off: PEM blocks alone look complete wherever they end.
	tail = "end\n"

	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// encode is a file's content: the pair, and for a root those others that are trusted beside it.
func encode(p profile, own *pair, others []*x509.Certificate) ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(own.key)
	if err != nil {
		return nil, err
	}
	b := []byte(headWords + p.name + formatWords + strconv.Itoa(format) + "\n")
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: own.cert.Raw})...)
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: key})...)
	for _, cert := range others {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: cert.Raw})...)
	}
	return append(b, tail...), nil
}

// decode is the reverse of encode. It accepts nothing but what encode wrote, to the byte: damage
// that hides a PEM block would silently drop a root that peers rely on. It does not check the
// contents of the certificates.
func decode(p profile, data []byte) (own *pair, others []*x509.Certificate, err error) {
	if len(data) == 0 {
		return nil, nil, errors.New("is empty")
	}
	if err := checkHead(p, data); err != nil {
		return nil, nil, err
	}
	if !bytes.HasSuffix(data, []byte("\n"+tail)) {
		return nil, nil, errors.New("is cut off")
	}
	own = &pair{}
	for i, rest := 0, data; ; i++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case i == 1 && block.Type == keyBlock:
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, errors.New("its private key cannot be read")
			}
			var ok bool
			if own.key, ok = key.(*ecdsa.PrivateKey); !ok {
				return nil, nil, errors.New("its private key is not an ECDSA key")
			}
		case i != 1 && block.Type == certificateBlock:
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("its certificate number %d cannot be read: %w", max(i, 1), err)
			}
			if i == 0 {
				own.cert = cert
			} else {
				others = append(others, cert)
			}
		default:
			return nil, nil, fmt.Errorf("its PEM block number %d is a %q, which does not belong there", i+1, block.Type)
		}
	}
	if own.cert == nil || own.key == nil {
		return nil, nil, errors.New("does not hold a certificate and its private key")
	}
	again, err := encode(p, own, others)
	if err != nil || !bytes.Equal(again, data) {
		return nil, nil, errors.New("is not as sallyport wrote it")
	}
	return own, others, nil
}

// checkHead checks the first line, so that a file of another version or kind gets an error that
// says so.
func checkHead(p profile, data []byte) error {
	head, _, _ := strings.Cut(string(data[:min(len(data), 128)]), "\n")
	name, version, ok := strings.Cut(strings.TrimPrefix(head, headWords), formatWords)
	n, err := strconv.Atoi(version)
	switch {
	case !strings.HasPrefix(head, headWords) || !ok || err != nil:
		return errors.New("does not begin as a file of the CA does")
	case name != p.name:
		return fmt.Errorf("is the file of the %s, want that of the %s", name, p.name)
	case n > format:
		return fmt.Errorf("has format %d of a newer sallyport, want %d", n, format)
	case n != format:
		return fmt.Errorf("has format %d, want %d", n, format)
	}
	return nil
}
