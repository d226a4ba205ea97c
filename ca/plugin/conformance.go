package plugin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/certpath"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Check is one thing that the contract demands.
type Check struct {
	// Name says what is to be so.
	Name string
	// Err is why it is not; nil: it is so.
	Err error
	// Skipped is set if it was not looked at, as another one failed. Err is which.
	Skipped bool
	// Mend is what to change in the plug-in.
	Mend string
}

// patience is for how long an approval is waited for.
const patience = 10 * time.Minute

// Conform asks a plug-in what it is asked in use, and what it should refuse, and calls report with each check. It has certificates signed
// for keys of its own, which nobody keeps. The error is a mistake in cfg. It blocks until all is asked or ctx ends.
func Conform(ctx context.Context, cfg Config, report func(Check)) error {
	c, err := New(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	x := &examination{ctx: ctx, ca: c, report: report}
	if !x.description() {
		x.skip("describe is not answered", "whatever else the contract demands")
		return nil
	}
	x.rootsAnswer()
	for _, kind := range x.signs {
		x.sign(kind)
	}
	x.refusals()
	return nil
}

// examination is one run of the checks.
type examination struct {
	ctx    context.Context
	ca     *CA
	report func(Check)
	signs  []string
	slots  int
	most   map[string]int64
	roots  []*x509.Certificate
}

// check reports on a check, and whether it was passed.
func (x *examination) check(name, mend string, err error) bool {
	x.report(Check{Name: name, Err: err, Mend: mend})
	return err == nil
}

// skip reports checks that are not made.
func (x *examination) skip(why string, names ...string) {
	for _, name := range names {
		x.report(Check{Name: name, Skipped: true, Err: errors.New(why)})
	}
}

// put asks once, whatever was answered before.
func (x *examination) put(q question) (*answer, error) {
	if q.Version == 0 {
		q.Version = version
	}
	q.TrustDomain = x.ca.cfg.TrustDomain.Name()
	text, err := x.ca.ask(x.ctx, q)
	if err != nil {
		return nil, err
	}
	return read(text)
}

const (
	mendJSON     = "have it run and reached, where an answer is missing; exit with status 0 and print one JSON object, and nothing else, to stdout"
	mendDescribe = `answer {"version": 1, "name": "…", "signs": ["intermediate"], "concurrency": 1}`
)

// description checks what the plug-in says of itself; false if it says nothing.
func (x *examination) description() bool {
	a, err := x.put(question{Op: opDescribe})
	if !x.check("describe is answered with one JSON object, without a private key", mendJSON, err) {
		return false
	}
	x.check("describe says version 1", mendDescribe, expect(a.Version == version, "version is %d", a.Version))
	x.check("describe says a name", mendDescribe, expect(a.Name != "", "name is empty"))
	kinds := []string{intermediate, leaf}
	for _, kind := range kinds {
		if slices.Contains(a.Signs, kind) {
			x.signs = append(x.signs, kind)
		}
	}
	x.check("describe says which kinds it signs", mendDescribe, expect(len(x.signs) > 0, "signs is %.100q", a.Signs))
	x.check("describe says no other kinds", mendDescribe, expect(!slices.ContainsFunc(a.Signs, func(s string) bool { return !slices.Contains(kinds, s) }), "signs is %.100q", a.Signs))
	var short error
	for kind, n := range a.MaxTTL {
		short = errors.Join(short, expect(slices.Contains(kinds, kind) && n >= 300, "max_ttl_seconds of %.20q is %d", kind, n))
	}
	x.most = a.MaxTTL
	x.check("describe says max_ttl_seconds of 5 minutes or more, or none", "say the longest life that it gives, in seconds, by kind", short)
	x.check("describe says a concurrency of 1 to 64, or none", mendDescribe, expect(a.Concurrency >= 0 && a.Concurrency <= maxConcurrency, "concurrency is %d", a.Concurrency))
	x.slots = min(max(a.Concurrency, 1), 8)
	again, err := x.put(question{Op: opDescribe, Future: "a field of a later version"})
	x.check("fields that are not known are ignored", "read the fields that are known, and ignore others", orDiffers(err, again != nil && again.Name == a.Name, "with one, describe says another name"))
	return true
}

func (x *examination) rootsAnswer() {
	a, err := x.put(question{Op: opRoots})
	if !x.check("roots is answered with one JSON object, without a private key", mendJSON, err) {
		x.skip("roots is not answered", "roots are certificates in PEM", "each root is self-signed and a CA's", "each root is valid, once there, and one that proxies take",
			"distrust are SHA-256 in hexadecimal, of no root that is listed", "refresh_seconds is 10 to 3600, or not said", "roots are the same when asked again")
		return
	}
	certs, err := ca.ParseCertificates(strings.Join(a.Roots, "\n"))
	x.check("roots are certificates in PEM", `answer {"roots": ["-----BEGIN CERTIFICATE-----…"]}, one or more, and nothing else in them`, err)
	var wrong, left error
	for _, c := range certs {
		wrong = errors.Join(wrong, expect(c.IsCA && certpath.SelfSigned(c), "%.100q is none", c.Subject))
	}
	x.check("each root is self-signed and a CA's", "list the root itself, no intermediate and no cross-signed form of it", wrong)
	bundle, out := certpath.Bundle(certs, true, time.Now())
	for _, l := range out {
		left = errors.Join(left, fmt.Errorf("%.100q: %s", l.Certificate.Subject, l.Reason))
	}
	x.check("each root is valid, once there, and one that proxies take", "list those that verifiers are to trust now, each name and key once", left)
	x.roots = bundle
	_, distrusted, err := readRoots(&answer{Roots: a.Roots, Distrust: a.Distrust}, time.Now())
	if len(certs) == 0 {
		err = nil
	}
	for _, c := range certs {
		if slices.Contains(distrusted, sha256.Sum256(c.Raw)) {
			err = fmt.Errorf("%.100q is in both", c.Subject)
		}
	}
	x.check("distrust are SHA-256 in hexadecimal, of no root that is listed", "a root that must leave at once is in distrust alone", err)
	x.check("refresh_seconds is 10 to 3600, or not said", "say between 10 s and 1 h", expect(a.Refresh == 0 || a.Refresh >= 10 && a.Refresh <= 3600, "it is %d", a.Refresh))
	again, err := x.put(question{Op: opRoots})
	x.check("roots are the same when asked again", "list the same roots, until there is a reason for others", orDiffers(err, again != nil && slices.Equal(again.Roots, a.Roots), "the second answer has others"))
}

// signed is what came of a sign question.
type signed struct {
	certs []*x509.Certificate
	key   *ecdsa.PrivateKey
	id    spiffeid.ID
	q     question
}

// ask has a new key signed.
func (x *examination) ask(kind string, ttl time.Duration) (*signed, error) {
	s, err := x.prepare(kind, ttl)
	if err != nil {
		return nil, err
	}
	return s, x.again(s)
}

// prepare makes a question of a new key.
func (x *examination) prepare(kind string, ttl time.Duration) (*signed, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	s := &signed{key: key, id: x.ca.cfg.TrustDomain.ID()}
	if kind == leaf {
		if s.id, err = spiffeid.FromPath(x.ca.cfg.TrustDomain, "/ns/default/dc/dc1/svc/conformance"); err != nil {
			return nil, err
		}
	}
	csr, err := newRequest(key, kind, s.id)
	if err != nil {
		return nil, err
	}
	s.q = question{Op: opSign, ID: requestID(kind, s.id, csr), Kind: kind, URI: s.id.String(), CSR: requestPEM(csr.Raw), TTLSeconds: int64(ttl / time.Second), SkewSeconds: int64(skew / time.Second)}
	return s, nil
}

// again asks what may have been asked before, as long as somebody has to approve.
func (x *examination) again(s *signed) error {
	for until := time.Now().Add(patience); ; {
		a, err := x.put(s.q)
		if l, ok := errors.AsType[*later](err); ok && errors.Is(err, ca.ErrPending) && time.Now().Add(l.after).Before(until) {
			select {
			case <-time.After(l.after):
				continue
			case <-x.ctx.Done():
			}
		}
		if err == nil {
			s.certs, err = ca.ParseCertificates(strings.Join(a.Chain, "\n"))
		}
		return err
	}
}

// life is what is asked for: a day, unless the plug-in gives less.
func (x *examination) life(kind string) time.Duration {
	if n := x.most[kind]; n > 0 {
		return min(24*time.Hour, time.Duration(n)*time.Second)
	}
	return 24 * time.Hour
}

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// orDiffers is err, or what differs.
func orDiffers(err error, same bool, differs string) error {
	if err == nil && !same {
		err = errors.New(differs)
	}
	return err
}
