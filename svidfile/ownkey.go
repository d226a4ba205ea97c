package svidfile

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	mathrand "math/rand/v2"
	"net/url"
	"time"
)

// renewCheck is how often the wall clock is looked at, which a suspended machine or an operator moves.
const renewCheck = time.Minute

// askForOwnKey makes a key and has it signed: with an index above 0 when half of the last leaf's life is over, or the roots are others.
func (w *writer) askForOwnKey(ctx context.Context, index uint64, to *leafAnswer) (uint64, error) {
	for index > 0 {
		left := time.Until(w.renew)
		if left <= 0 {
			break
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(min(left, renewCheck)):
			continue
		case <-w.others:
		}
		break
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return 0, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return 0, err
	}
	var got leafAnswer
	if err := w.api.send(ctx, "/v1/sallyport/leaf/"+url.PathEscape(w.Service), encode("CERTIFICATE REQUEST", request), &got); err != nil {
		return 0, fmt.Errorf("--own-key: %w", err)
	}
	chain, err := certificates(got.CertPEM)
	if err != nil {
		return 0, fmt.Errorf("leaf of the API: %w", err)
	}
	got.PrivateKeyPEM = string(encode("PRIVATE KEY", der))
	// Of many that were started together not all come back together.
	now := time.Now()
	left := chain[0].NotAfter.Sub(now)
	if left <= 0 { // to ask for another at once would be to ask for ever
		return 0, fmt.Errorf("leaf of the API: ended at %s: is the clock of this machine right?", chain[0].NotAfter.UTC().Format(time.RFC3339))
	}
	w.renew = now.Round(0).Add(max(leastGap, time.Duration((0.5+0.1*mathrand.Float64())*float64(left))))
	*to = got
	return index + 1, nil
}
