// Package revocation keeps which certificates and identities are revoked: what was read last of where they are
// written, without those that have ended, and in a file of its own, so that what was revoked stays so while that cannot
// be read. It decides nothing; intention does.
package revocation
