package plugin

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/certpath"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// newRequest is a request as sallyport makes it.
func newRequest(key *ecdsa.PrivateKey, kind string, id spiffeid.ID) (*x509.CertificateRequest, error) {
	template := &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}
	if kind == intermediate {
		template.Subject = pkix.Name{CommonName: "sallyport conformance"}
		constraints, err := asn1.Marshal(struct {
			CA      bool
			PathLen int
		}{true, 0})
		if err != nil {
			return nil, err
		}
		usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x06}, BitLength: 7}) // keyCertSign and cRLSign
		if err != nil {
			return nil, err
		}
		template.ExtraExtensions = []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: usage},
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificateRequest(der)
}

func requestPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// sign checks what comes of the requests of a kind.
func (x *examination) sign(kind string) {
	of := func(name string) string { return kind + ": " + name }
	names := []string{
		of("the first certificate is for the key of the request"), of("the chain is in order, and nothing else is in it"), of("the root is not in the chain"),
		of("the URI SAN is as asked for"), of("it lives no longer than asked for"), of("it has begun"), of("proxies accept it under the roots"),
		of("a life of 10 minutes is obeyed"), of("the same id is answered again"), of("serial numbers differ"), of("as many at once as describe says are signed"),
	}
	if kind == intermediate {
		names = append(names, of("it has a subject, and that of no other"))
	}
	life := x.life(kind)
	s, err := x.ask(kind, life)
	if !x.check(of("sign is answered with certificates, without a private key"), mendJSON+`: {"chain": ["-----BEGIN CERTIFICATE-----…"]}`, err) {
		x.skip("nothing was signed", names...)
		return
	}
	first := s.certs[0]
	public, ok := first.PublicKey.(*ecdsa.PublicKey)
	if !x.check(names[0], "sign the request that came, and return its certificate first", expect(ok && public.Equal(&s.key.PublicKey), "it is for another key")) {
		x.skip("the key is another one", names[1:]...)
		return
	}
	x.check(names[1], "return each signer once, after what it signed, as long as there is one, four in all", inOrder(&s.key.PublicKey, s.certs))
	x.check(names[2], "leave the root out: proxies that meet it there stop", expect(!slices.ContainsFunc(s.certs, certpath.SelfSigned), "it is"))
	var uris []string
	for _, u := range first.URIs {
		uris = append(uris, u.String())
	}
	right := slices.Equal(uris, []string{s.id.String()}) || kind == intermediate && len(uris) == 0
	others := len(first.DNSNames) + len(first.IPAddresses) + len(first.EmailAddresses)
	x.check(names[3], "take the SAN from the field uri, and add none", expect(right && others == 0, "URI SANs are %.200q, beside %d others", uris, others))
	x.check(names[4], "set the end to ttl_seconds from now, or before", withinLife(first, life))
	x.check(names[5], "begin it not_before_skew_seconds before now", expect(!first.NotBefore.After(time.Now().Add(-skew/2)), "it begins at %s", first.NotBefore.Format(time.RFC3339)))
	x.check(names[6], "see the message: it says which certificate is refused, and why", x.verify(kind, s))
	short, err := x.ask(kind, 10*time.Minute)
	if err == nil {
		err = withinLife(short.certs[0], 10*time.Minute)
	}
	x.check(names[7], "obey ttl_seconds", err)
	x.check(names[8], "answer a question with an id that was answered before as if it were new, or with the same certificate", x.repeat(s))
	x.check(names[9], "draw serial numbers at random, or count them", expect(short == nil || len(short.certs) == 0 || first.SerialNumber.Cmp(short.certs[0].SerialNumber) != 0, "two certificates have the same"))
	x.check(names[10], "lock what may not be used twice at once, or say a smaller concurrency", x.atOnce(kind, life))
	if kind == intermediate {
		x.check(names[11], "give it a subject, as what it signs has that for an issuer",
			expect(len(first.Subject.String()) > 0 && !bytes.Equal(first.RawSubject, first.RawIssuer), "it is %.100q, and the issuer's is %.100q", first.Subject, first.Issuer))
	}
}

func withinLife(c *x509.Certificate, life time.Duration) error {
	return expect(!c.NotAfter.After(time.Now().Add(life+tolerance)), "it ends at %s, asked for was %s from now", c.NotAfter.Format(time.RFC3339), life)
}

// inOrder returns an error unless certs are what certpath.Chain makes of them.
func inOrder(public *ecdsa.PublicKey, certs []*x509.Certificate) error {
	chain, err := certpath.Chain(public, certs)
	if err != nil {
		return err
	}
	rest := slices.DeleteFunc(slices.Clone(certs), certpath.SelfSigned) // of which another check tells
	return expect(slices.EqualFunc(chain, rest, (*x509.Certificate).Equal), "of %d certificates %d are the chain, in another order or beside others", len(certs), len(chain))
}

// verify verifies a leaf as proxies will, for an intermediate one that is signed by it.
func (x *examination) verify(kind string, s *signed) error {
	if len(x.roots) == 0 {
		return errors.New("there are no roots")
	}
	chain, err := certpath.Chain(&s.key.PublicKey, s.certs)
	if err != nil {
		return err
	}
	want := certpath.Wanted{ID: s.id, Key: &s.key.PublicKey, Now: time.Now()}
	if kind == intermediate {
		if want.ID, err = spiffeid.FromPath(x.ca.cfg.TrustDomain, "/ns/default/dc/dc1/svc/conformance"); err != nil {
			return err
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), URIs: []*url.URL{want.ID.URL()}, NotBefore: want.Now.Add(-skew), NotAfter: want.Now.Add(5 * time.Minute), BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		// The key above is its key, too, as nobody uses it.
		der, err := x509.CreateCertificate(rand.Reader, template, chain[0], &s.key.PublicKey, s.key)
		if err != nil {
			return err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		chain = append([]*x509.Certificate{cert}, chain...)
	}
	return certpath.VerifyChain(chain, x.roots, want)
}

// repeat asks for what was answered before.
func (x *examination) repeat(s *signed) error {
	again := *s
	if err := x.again(&again); err != nil {
		return err
	}
	public, ok := again.certs[0].PublicKey.(*ecdsa.PublicKey)
	return expect(ok && public.Equal(&s.key.PublicKey), "the second answer is for another key")
}

// atOnce has as many signed at once as the plug-in says.
func (x *examination) atOnce(kind string, life time.Duration) error {
	errs := make([]error, x.slots)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			s, err := x.ask(kind, life)
			if err == nil {
				_, err = certpath.Chain(&s.key.PublicKey, s.certs)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// refusals checks what is to be refused.
func (x *examination) refusals() {
	_, err := x.put(question{Version: 9999, Op: opDescribe})
	r, ok := errors.AsType[*refusal](err)
	x.check("another version is refused with unsupported_version, and versions", `answer {"error": {"code": "unsupported_version", "versions": [1], "message": "…"}}`,
		expect(ok && r.Code == "unsupported_version" && slices.Contains(r.Versions, version), "%s", what(err)))
	_, err = x.put(question{Op: "future"})
	r, ok = errors.AsType[*refusal](err)
	x.check("an unknown question is refused with unsupported_op", `answer {"error": {"code": "unsupported_op", "message": "…"}}`, expect(ok && r.Code == "unsupported_op", "%s", what(err)))
	if len(x.signs) == 0 {
		return
	}
	kind := x.signs[0]
	refused := func(name, mend string, change func(*question)) {
		s, err := x.prepare(kind, x.life(kind))
		if err == nil {
			change(&s.q)
			if _, err = x.put(s.q); err != nil {
				err = expect(errors.Is(err, ca.ErrInvalid) || errors.Is(err, ca.ErrDenied), "%w", err)
			} else {
				err = errors.New("it is signed")
			}
		}
		x.check(name, mend, err)
	}
	const mend = `answer {"error": {"code": "invalid", "message": "…"}}, with exit status 0 (HTTP: 200)`
	refused("a request that cannot be read is refused with invalid", mend, func(q *question) {
		q.CSR = "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"
	})
	refused("a request that its key has not signed is refused with invalid", mend, func(q *question) { q.CSR = spoiled(q.CSR) })
	refused("a kind that it does not sign is refused with invalid or denied", mend, func(q *question) { q.Kind = "root" })
}

// spoiled is a request with another signature than its key's.
func spoiled(text string) string {
	block, _ := pem.Decode([]byte(text))
	der := slices.Clone(block.Bytes)
	der[len(der)-1] ^= 1
	return requestPEM(der)
}

// what is an error, or that there is none.
func what(err error) string {
	if err == nil {
		return "it is answered"
	}
	return fmt.Sprint(err)
}
