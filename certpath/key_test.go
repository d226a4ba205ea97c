package certpath

import (
	"crypto/rsa"
	"strings"
	"testing"
)

func TestLeafKey(t *testing.T) {
	key, ok := (&pki{t: t}).key("RSA 2048").Public().(*rsa.PublicKey)
	if !ok || LeafKey(key) != nil {
		t.Fatalf("%T: %v", key, LeafKey(key))
	}
	weak := *key
	weak.E = 3
	if err := LeafKey(&weak); err == nil || !strings.Contains(err.Error(), "exponent") {
		t.Errorf("exponent 3: %v", err)
	}
}
