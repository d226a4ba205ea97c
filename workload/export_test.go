package workload

import "crypto/ecdsa"

// Private is the key that signs.
func (k *JWTKeys) Private() *ecdsa.PrivateKey { return k.load().list[0].private }

// ID is its ID.
func (k *JWTKeys) ID() string { return k.load().list[0].id }

// Bundle is the public keys.
func (k *JWTKeys) Bundle() string { return string(k.load().bundle) }
