package workload

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Names of secrets, as SPIRE has them. A service's SPIFFE ID and its secret's name in the mesh
// (identity.Name.LeafSecret) name its certificate, too, and the trust domain's ID the roots.
const (
	defaultSecret = "default" // the certificate of the first service
	rootSecret    = "ROOTCA"  // the roots of the mesh's trust domain
	allSecret     = "ALL"     // the roots of all trust domains that are known
)

const (
	secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	// spiffeValidator is Envoy's validator that takes a certificate by the roots of its own trust
	// domain alone.
	spiffeValidator = "envoy.tls.cert_validator.spiffe"
	// noValidatorKey is the key of a node's metadata by which it asks for trusted_ca in its place.
	noValidatorKey = "disable_spiffe_cert_validation"
)

// dialect is how an Envoy wants its roots.
type dialect struct{ trustedCA bool }

// dialectOf reads it from what an Envoy says of itself; nil: nothing.
func dialectOf(n *corev3.Node) dialect {
	v := n.GetMetadata().GetFields()[noValidatorKey]
	if v.GetBoolValue() || strings.EqualFold(v.GetStringValue(), "true") {
		return dialect{trustedCA: true}
	}
	// Envoy has the validator since 1.18.
	version := n.GetUserAgentBuildVersion().GetVersion()
	return dialect{trustedCA: version.GetMajorNumber() == 1 && version.GetMinorNumber() < 18}
}

// secret is one secret as it is sent.
type secret struct {
	name    string
	any     *anypb.Any
	version string // the hash of its bytes
}

// names are all secrets that a has, each by one name.
func (a *answer) names() (all []string) {
	for _, o := range a.svids {
		all = append(all, o.uri)
	}
	all = append(all, a.trustDomain())
	for _, b := range a.foreign.All() {
		all = append(all, b.TrustDomain.IDString())
	}
	return all
}

// trustDomain is the ID of the mesh's trust domain.
func (a *answer) trustDomain() string { return a.svids[0].id.TrustDomain.IDString() }

// secrets are those of names, in that order. missing are the names that a has no secret of.
func (a *answer) secrets(names []string, d dialect) (found []secret, missing []string, err error) {
	for _, name := range names {
		s := a.secret(name, d)
		if s == nil {
			missing = append(missing, name)
			continue
		}
		made, err := pack(s)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, made)
	}
	return found, missing, nil
}

// secret is the secret of a name; nil: there is none.
func (a *answer) secret(name string, d dialect) *tlsv3.Secret {
	switch name {
	case identity.RootsSecret:
		return validation(name, dialect{trustedCA: true}, a.own())
	case allSecret:
		if d.trustedCA { // which cannot tell trust domains apart
			return validation(name, d, a.own())
		}
		return validation(name, d, append([]*bundle.Bundle{a.own()}, a.foreign.All()...)...)
	case rootSecret, a.trustDomain():
		return validation(name, d, a.own())
	}
	if b := a.of(name); b != nil {
		return validation(name, d, b)
	}
	if s := a.named(name); s != nil {
		return s.secret(name)
	}
	return nil
}

// named is the leaf in the secret of a name; nil: there is none.
func (a *answer) named(name string) *svid {
	if name == defaultSecret {
		return &a.svids[0]
	}
	i := slices.IndexFunc(a.svids, func(s svid) bool { return s.uri == name || s.id.LeafSecret() == name })
	if i < 0 {
		return nil
	}
	return &a.svids[i]
}

func (s svid) secret(name string) *tlsv3.Secret {
	var chain []byte
	for _, c := range s.raw.Certificates {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(chain),
		PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: s.key})),
	}}}
}

// own is the mesh's own bundle.
func (a *answer) own() *bundle.Bundle {
	return &bundle.Bundle{TrustDomain: a.svids[0].id.TrustDomain, Roots: a.roots}
}

// validation is a validation context of bundles, one alone in a dialect without the SPIFFE validator. It lets in whoever they vouch for: its users add
// whom they expect.
func validation(name string, d dialect, bundles ...*bundle.Bundle) *tlsv3.Secret {
	context := &tlsv3.CertificateValidationContext{}
	if d.trustedCA {
		roots := bundles[0].Roots
		context.TrustedCa = inline([]byte(roots.PEM()))
		if depth := roots.Depth(); depth > 0 {
			context.MaxVerifyDepth = wrapperspb.UInt32(depth)
		}
	} else {
		validator := &tlsv3.SPIFFECertValidatorConfig{}
		for _, b := range bundles {
			validator.TrustDomains = append(validator.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{
				Name: b.TrustDomain.Name(), TrustBundle: inline([]byte(b.Roots.PEM())),
			})
		}
		config, err := marshal(validator)
		if err != nil {
			return nil
		}
		context.CustomValidatorConfig = &corev3.TypedExtensionConfig{Name: spiffeValidator, TypedConfig: config}
	}
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: context}}
}

func inline(text []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: text}}
}

// marshal is anypb.New whose bytes are the same each time.
func marshal(m proto.Message) (*anypb.Any, error) {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: text}, nil
}

func pack(s *tlsv3.Secret) (secret, error) {
	made, err := marshal(s)
	if err != nil {
		return secret{}, status.Errorf(codes.Internal, "the secret %s cannot be told", s.GetName())
	}
	sum := sha256.Sum256(made.GetValue())
	return secret{s.GetName(), made, hex.EncodeToString(sum[:8])}, nil
}

// errMissing is the error of one who asks for secrets that it may not have, or that there are none of.
// lost: it had one of them. It is counted and logged.
func (s *Server) errMissing(p *attest.Process, names []string, lost bool) error {
	const most = 10
	text := make([]string, 0, most)
	for _, n := range names[:min(len(names), most)] {
		text = append(text, fmt.Sprintf("%.200q", n))
	}
	if lost {
		return s.refuse(p, reasonSecret, status.Errorf(codes.PermissionDenied, "no identity issued: the process has no right any more to %s", strings.Join(text, ", ")))
	}
	return s.refuse(p, reasonSecret, status.Errorf(codes.InvalidArgument, "workload is not authorized for the requested identities [%s]", strings.Join(text, " ")))
}
