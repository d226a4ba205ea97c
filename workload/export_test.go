package workload

import "crypto/ecdsa"

// Private is the key itself.
func (k *JWTKey) Private() *ecdsa.PrivateKey { return k.private }

// ID is the key's ID.
func (k *JWTKey) ID() string { return k.id }
