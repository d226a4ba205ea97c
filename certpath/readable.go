package certpath

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

// Identifiers of parts (X.690, 8.1.2): version and extensions of a certificate, sequences and sets are constructed.
const (
	oneBool, oneInteger, oneBits, oneOctets, oneOID = asn1.TagBoolean, asn1.TagInteger, asn1.TagBitString, asn1.TagOctetString, asn1.TagOID

	aSequence   = 0x30
	aVersion    = 0xa0
	aExtensions = 0xa3
	anything    = -1
)

// readable returns an error if c, which Go has read, is one that BoringSSL does not read. An Envoy refuses a secret that has such a
// certificate, with all else that the secret says, so that of a bundle that somebody else makes not one may be among what it is told.
// Go's parser passes over what follows the last part of a sequence, takes dates of any form, and what is no character.
func readable(c *x509.Certificate) error {
	// There are no unique identifiers: of those Go reads nothing, and nobody has had them for decades (RFC 5280, 4.1.2.8).
	body, ok := partsOf(c.RawTBSCertificate, aVersion, oneInteger, aSequence, aSequence, aSequence, aSequence, aSequence, aExtensions)
	if !ok {
		return errors.New("its parts are not those of a certificate of version 3 (RFC 5280, 4.1)")
	}
	if err := readableDates(body[4]); err != nil {
		return err
	}
	for _, name := range [][]byte{body[3], body[5]} {
		if err := readableName(name); err != nil {
			return err
		}
	}
	key, ok := partsOf(body[6], aSequence, oneBits)
	if !ok || !readableAlgorithm(key[0]) || !readableAlgorithm(body[2]) {
		return errors.New("the parts of its key or of an algorithm are not as in RFC 5280, 4.1")
	}
	list, ok := partsOf(body[7], aSequence)
	_, versioned := partsOf(body[0], oneInteger)
	if !ok || !versioned {
		return errors.New("something follows its version or its extensions")
	}
	extensions, _ := partsOf(list[0])
	for _, e := range extensions {
		_, critical := partsOf(e, oneOID, oneBool, oneOctets)
		if _, other := partsOf(e, oneOID, oneOctets); !critical && !other {
			return errors.New("the parts of an extension are not as in RFC 5280, 4.1")
		}
	}
	return nil
}

// readableAlgorithm reports whether an algorithm has no more than its parameters beside it.
func readableAlgorithm(der []byte) bool {
	_, bare := partsOf(der, oneOID)
	_, parameters := partsOf(der, oneOID, anything)
	return bare || parameters
}

// readableDates is readable for the validity: from a second to a second, in UTC.
func readableDates(validity []byte) error {
	dates, ok := partsOf(validity, anything, anything)
	if !ok {
		return errors.New("its validity is not two dates")
	}
	for _, der := range dates {
		var date asn1.RawValue
		if _, err := asn1.Unmarshal(der, &date); err != nil {
			return err
		}
		length := len("060102150405Z")
		if date.Tag == asn1.TagGeneralizedTime {
			length = len("20060102150405Z")
		}
		if text := date.Bytes; len(text) != length || text[length-1] != 'Z' {
			return fmt.Errorf("its date %.30q is not one to the second and in UTC", text)
		}
	}
	return nil
}

// readableName is readable for an issuer or a subject.
func readableName(name []byte) error {
	sets, _ := partsOf(name)
	for _, set := range sets {
		attributes, _ := partsOf(set)
		if len(attributes) == 0 {
			return errors.New("a part of its name is empty")
		}
		for _, a := range attributes {
			parts, ok := partsOf(a, oneOID, anything)
			if !ok {
				return errors.New("a part of its name is not a type and a text")
			}
			var text asn1.RawValue
			if _, err := asn1.Unmarshal(parts[1], &text); err != nil {
				return err
			}
			if text.Tag != asn1.TagUTF8String {
				continue // of the others Go reads less
			}
			for _, r := range string(text.Bytes) {
				if r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef {
					return fmt.Errorf("its name has %U, which is no character", r)
				}
			}
		}
	}
	return nil
}

// partsOf are the parts of which der is made; ok reports whether they have these identifiers, none for whatever they are.
func partsOf(der []byte, identifiers ...int) (parts [][]byte, ok bool) {
	var all asn1.RawValue
	if _, err := asn1.Unmarshal(der, &all); err != nil || !all.IsCompound {
		return nil, false
	}
	for rest := all.Bytes; len(rest) > 0; {
		var part asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &part); err != nil {
			return nil, false
		}
		if n := len(parts); len(identifiers) > 0 && (n == len(identifiers) || identifiers[n] != anything && identifiers[n] != int(part.FullBytes[0])) {
			return nil, false
		}
		parts = append(parts, part.FullBytes)
	}
	return parts, len(identifiers) == 0 || len(parts) == len(identifiers)
}
