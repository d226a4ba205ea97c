package token

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/sallyport/sallyport/identity"
)

// maxApplications bounds how many verified tokens of applications are kept.
const maxApplications = 4 << 10

// readerSubject is the sub claim of a reader's token. No service is called so.
const readerSubject = "*"

// applicationBearer stands before a service where revocations name the bearer of its applications' tokens. A proxy's ID may hold any
// character, but it comes in a gRPC header, which has no zero byte.
const applicationBearer = "\x00application "

// Application is whom a token of the HTTP API is for: the applications of a service, or a Reader, who may read all but certificates.
// Exactly one of the two is set.
type Application struct {
	Service identity.Name
	Reader  bool
}

// application is what is kept of an application's token whose signature and claims are valid.
type application struct {
	Application
	id                         string
	of                         identity.ProxyID // its bearer
	notBefore, expires, issued int64            // Unix seconds
}

func (a Application) bearer() identity.ProxyID {
	if a.Reader {
		return applicationBearer + readerSubject
	}
	return identity.ProxyID(applicationBearer + binding(a.Service))
}

// MintApplication returns a token of a, which ends after ttl, rounded up to a whole second. A ttl below one second or beyond MaxLife
// is an error, and so is a service that cannot be one.
func (i *Issuer) MintApplication(a Application, ttl time.Duration) (Minted, error) {
	subject := readerSubject
	if !a.Reader {
		if err := a.Service.Check(); err != nil {
			return Minted{}, fmt.Errorf("token for applications of %q: %w", a.Service, err)
		}
		subject = binding(a.Service)
	} else if a.Service != (identity.Name{}) {
		return Minted{}, errors.New("token for a reader, and for applications of a service: it is one of the two")
	}
	if ttl < time.Second || ttl > MaxLife {
		return Minted{}, fmt.Errorf("token for applications: lifetime %v: must be between one second and %v", ttl, MaxLife)
	}
	now := time.Now()
	m := Minted{ID: rand.Text(), Expires: now.Add(ttl + time.Second - 1).Truncate(time.Second)}
	var err error
	m.Text, err = jwt.Signed(i.signer).Claims(jwt.Claims{
		Issuer:    i.issuer,
		Subject:   subject,
		Audience:  jwt.Audience{applicationAudience},
		Expiry:    jwt.NewNumericDate(m.Expires),
		NotBefore: jwt.NewNumericDate(now.Add(-backDated)),
		IssuedAt:  jwt.NewNumericDate(i.issuable(a.bearer(), now)),
		ID:        m.ID,
	}).Serialize()
	if err != nil {
		return Minted{}, fmt.Errorf("token for applications: %w", err)
	}
	return m, nil
}

// Application returns whom a token of the HTTP API is for, and its ID. Like Call, it asks nobody; the signature is checked the first
// time, and times and revocations in every call.
func (i *Issuer) Application(token string) (a Application, id string, err error) {
	v, known := i.applications.Load(token)
	if !known {
		if v, err = i.application(token); err != nil {
			return Application{}, "", err
		}
	}
	now := time.Now().Unix()
	if err := i.invalid(v, now); err != nil {
		return Application{}, "", err
	}
	if !known {
		i.applications.Store(token, v, func(v *application) bool { return now >= v.expires })
	}
	return v.Application, v.id, nil
}

// invalid is why a token of v counts for nothing now; nil: it counts.
func (i *Issuer) invalid(v *application, now int64) error {
	switch {
	case now >= v.expires:
		return fmt.Errorf("%w at %s: `sallyport token create` makes a new one", errExpired, time.Unix(v.expires, 0).UTC().Format(time.RFC3339))
	case now < v.notBefore:
		return fmt.Errorf("token is not valid before %s: is the clock right?", time.Unix(v.notBefore, 0).UTC().Format(time.RFC3339))
	case i.revoked.current.Load().includes(v.id, v.of, v.issued):
		return fmt.Errorf("token %.64q was revoked", v.id)
	}
	return nil
}

// application is what a token says whose signature is good.
func (i *Issuer) application(token string) (*application, error) {
	c, err := i.parse(token, applicationAudience)
	if err != nil {
		return nil, err
	}
	v := &application{id: c.ID, notBefore: int64(*c.NotBefore), expires: int64(*c.Expiry)}
	if v.Reader = c.Subject == readerSubject; !v.Reader {
		var ok bool
		if v.Service, ok = boundTo(c.Subject); !ok || v.Service.Check() != nil {
			return nil, errors.New("token is of no service")
		}
	}
	if c.IssuedAt != nil {
		v.issued = int64(*c.IssuedAt)
	}
	v.of = v.bearer()
	return v, nil
}

// RevokeApplications has no token of a that was made until now be taken any more, as RevokeAll does for a proxy.
func (i *Issuer) RevokeApplications(a Application) error { return i.RevokeAll(a.bearer()) }
