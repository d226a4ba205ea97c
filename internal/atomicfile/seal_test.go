package atomicfile_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/sallyport/sallyport/internal/atomicfile"
)

func TestSeal(t *testing.T) {
	for _, text := range []string{"{}\n", "a\nb\n", "\n", ""} {
		sealed := atomicfile.Seal([]byte(text))
		got, ok, err := atomicfile.Unseal(sealed)
		if string(got) != text || !ok || err != nil {
			t.Errorf("Unseal(Seal(%q)) = %q, %t, %v", text, got, ok, err)
		}
		got, ok, err = atomicfile.Unseal([]byte(text))
		if string(got) != text || ok || err != nil {
			t.Errorf("Unseal(%q) = %q, %t, %v", text, got, ok, err)
		}
		// What is changed is an error, or is no text that anybody would take: the checksum's line is
		// a part of it.
		for n := range sealed {
			for bit := range 8 {
				damaged := bytes.Clone(sealed)
				damaged[n] ^= 1 << bit
				got, ok, err := atomicfile.Unseal(damaged)
				if err == nil && (ok || !bytes.Equal(got, damaged)) || err != nil && !errors.Is(err, atomicfile.ErrSeal) {
					t.Errorf("with bit %d of byte %d flipped Unseal = %q, %t, %v", bit, n, got, ok, err)
				}
			}
		}
	}
}
