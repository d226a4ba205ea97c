package api

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // it is the name that Consul gives a certificate
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/sds"
)

// rootsAnswer is that of both endpoints of roots.
type rootsAnswer struct {
	ActiveRootID string
	TrustDomain  string
	Roots        []rootAnswer
}

type rootAnswer struct {
	ID                       string
	Name                     string
	SerialNumber             json.Number // of any length: Consul's is a number
	SigningKeyID             string
	ExternalTrustDomain      string
	NotBefore, NotAfter      string
	RootCert                 string
	IntermediateCerts        []string // null: none
	Active                   bool
	PrivateKeyType           string
	PrivateKeyBits           int
	CreateIndex, ModifyIndex uint64
}

func onRoots(st *state, _ *question) depends { return depends{st.roots} }

// roots answers with the roots of the mesh, in a stable order: some clients compare lists.
func roots(st *state, q *question) (any, error) {
	asPEM := false
	if v := q.query.Get("pem"); v != "" && q.route.jitter { // the server's endpoint has it
		var err error
		if asPEM, err = strconv.ParseBool(v); err != nil {
			return nil, failed(http.StatusBadRequest, "The 'pem' query parameter must be a boolean value")
		}
	}
	if asPEM {
		return text{kind: "application/pem-certificate-chain", body: []byte(st.roots.PEM()), roots: st.roots}, nil
	}
	td := st.view.Mesh().TrustDomain.Name()
	out := rootsAnswer{TrustDomain: td, Roots: []rootAnswer{}}
	active, known := st.roots.Active()
	for _, r := range st.roots.List() {
		kind, bits := keyOf(r)
		a := rootAnswer{
			ID: fingerprint(r), Name: r.Certificate.Subject.CommonName, SerialNumber: json.Number(r.Certificate.SerialNumber.String()),
			SigningKeyID: colonHex(r.Certificate.SubjectKeyId), ExternalTrustDomain: strings.TrimSuffix(td, ".consul"),
			NotBefore: at(r.Certificate.NotBefore), NotAfter: at(r.Certificate.NotAfter), RootCert: certificatePEM(r.Certificate),
			Active: known && r.Certificate.Equal(active.Certificate), PrivateKeyType: kind, PrivateKeyBits: bits,
			CreateIndex: st.rootsNumber, ModifyIndex: st.rootsNumber,
		}
		if a.Active {
			out.ActiveRootID = a.ID
		}
		out.Roots = append(out.Roots, a)
	}
	return out, nil
}

// fingerprint is what Consul calls a root: the SHA-1 of its certificate.
func fingerprint(r sds.Root) string {
	sum := sha1.Sum(r.Certificate.Raw) //nolint:gosec // a name, no proof
	return colonHex(sum[:])
}

func colonHex(b []byte) string {
	var out strings.Builder
	for i, c := range b {
		if i > 0 {
			out.WriteByte(':')
		}
		out.WriteString(hex.EncodeToString([]byte{c}))
	}
	return out.String()
}

// at is a time as Consul writes those of certificates.
func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func certificatePEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func keyOf(r sds.Root) (kind string, bits int) {
	switch k := r.Certificate.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ec", k.Curve.Params().BitSize
	case *rsa.PublicKey:
		return "rsa", k.N.BitLen()
	case ed25519.PublicKey:
		return "ed25519", 8 * len(k)
	default:
		return "", 0
	}
}
