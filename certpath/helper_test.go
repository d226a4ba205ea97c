package certpath

import (
	"crypto/x509"
	"encoding/pem"
)

const (
	testDomain = "11111111-2222-3333-4444-555555555555.consul"
	webURI     = "spiffe://" + testDomain + "/ns/default/dc/dc1/svc/web"
)

func names(chain []*x509.Certificate) (list []string) {
	for _, c := range chain {
		list = append(list, c.Subject.CommonName+" by "+c.Issuer.CommonName)
	}
	return list
}

func inPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}
