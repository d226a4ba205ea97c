package workload

import (
	"context"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// jwtLife is how long a JWT-SVID holds. It is not taken back when its service loses the process.
	jwtLife = 5 * time.Minute
	// Bounds on what a JWT-SVID is asked for.
	maxAudiences = 32
	maxAudience  = 1 << 10
	// maxJWT bounds a JWT that is validated, in bytes.
	maxJWT = 16 << 10
)

// emptyJWKS is the bundle of a mesh without JWT-SVIDs. Clients wait for one without an end.
var emptyJWKS = []byte(`{"keys":[]}`)

// errNoJWT is what a mesh without a JWT key answers.
var errNoJWT = status.Error(codes.Unimplemented, "beside Consul there are no JWT-SVIDs: use X.509-SVIDs")

// FetchJWTSVID makes a JWT-SVID of each service that the process is, sorted by name, or of the one
// that is asked for.
func (s *Server) FetchJWTSVID(ctx context.Context, r *workloadpb.JWTSVIDRequest) (*workloadpb.JWTSVIDResponse, error) {
	if s.jwt == nil {
		return nil, errNoJWT
	}
	audience := r.GetAudience()
	switch {
	case len(audience) == 0 || slices.Contains(audience, ""):
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	case len(audience) > maxAudiences || slices.ContainsFunc(audience, func(a string) bool { return len(a) > maxAudience }):
		return nil, status.Errorf(codes.InvalidArgument, "more than %d audiences, or one of more than %d bytes", maxAudiences, maxAudience)
	}
	if want := r.GetSpiffeId(); want != "" {
		if _, err := spiffeid.FromString(want); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "invalid requested SPIFFE ID: %v", err)
		}
	}
	c, err := connOf(ctx)
	if err != nil {
		return nil, err
	}
	v, err := s.view()
	if err != nil {
		return nil, err
	}
	grants, err := s.grants(ctx, v, c.process)
	if err != nil {
		return nil, err
	}
	out := &workloadpb.JWTSVIDResponse{}
	for _, g := range grants {
		if want := r.GetSpiffeId(); want != "" && want != g.id.String() {
			continue
		}
		text, err := s.jwt.load().list[0].sign(g.id, audience, time.Now())
		if err != nil {
			return nil, status.Error(codes.Internal, "the JWT-SVID cannot be signed")
		}
		out.Svids = append(out.Svids, &workloadpb.JWTSVID{SpiffeId: g.id.String(), Svid: text})
	}
	if len(out.GetSvids()) == 0 {
		return nil, s.refuse(c.process, reasonUnnamed, status.Errorf(codes.PermissionDenied, "no identity issued: the process is not %.200q", r.GetSpiffeId()))
	}
	return out, nil
}

// sign makes a JWT-SVID of id.
func (k jwtKey) sign(id identity.Service, audience []string, now time.Time) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k.private, KeyID: k.id}}, new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(jwt.Claims{
		Subject: id.String(), Audience: audience, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(jwtLife)),
	}).Serialize()
}

// JWTBundle is the public keys of JWT-SVIDs, a JWK set; nil: there are no JWT-SVIDs.
func (s *Server) JWTBundle() []byte {
	if s.jwt == nil {
		return nil
	}
	return s.jwt.load().bundle
}

// FetchJWTBundles sends the public keys of JWT-SVIDs by trust domain. They are public.
func (s *Server) FetchJWTBundles(_ *workloadpb.JWTBundlesRequest, stream grpc.ServerStreamingServer[workloadpb.JWTBundlesResponse]) error {
	c, err := connOf(stream.Context())
	if err != nil {
		return err
	}
	v, err := s.view()
	if err != nil {
		return err
	}
	td := v.Mesh().TrustDomain
	for {
		foreign := s.sets.Changed() // before they are loaded, so that no change is missed
		own, changed := emptyJWKS, (<-chan struct{})(nil)
		if s.jwt != nil {
			changed = s.jwt.current.Changed()
			own = s.jwt.load().bundle
		}
		bundles := map[string][]byte{td.IDString(): own}
		for _, b := range s.foreign(td).All() {
			if b.JWTKeys != nil {
				bundles[b.TrustDomain.IDString()] = b.JWTKeys
			}
		}
		if err := stream.Send(&workloadpb.JWTBundlesResponse{Bundles: bundles}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-foreign:
		case <-c.process.Ended():
			return errGone
		case <-s.closing:
			return errClosing
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

// ValidateJWTSVID says whose a JWT-SVID of this mesh, or of another trust domain, is, if it is good and for that audience.
func (s *Server) ValidateJWTSVID(_ context.Context, r *workloadpb.ValidateJWTSVIDRequest) (*workloadpb.ValidateJWTSVIDResponse, error) {
	switch {
	case r.GetAudience() == "":
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	case r.GetSvid() == "":
		return nil, status.Error(codes.InvalidArgument, "svid must be specified")
	case len(r.GetSvid()) > maxJWT:
		return nil, status.Errorf(codes.InvalidArgument, "svid has more than %d bytes", maxJWT)
	}
	v, err := s.view()
	if err != nil {
		return nil, err
	}
	own := v.Mesh().TrustDomain
	bundles := jwtbundle.NewSet()
	if s.jwt != nil {
		b := jwtbundle.New(own)
		for _, k := range s.jwt.load().list {
			if err := b.AddJWTAuthority(k.id, k.private.Public()); err != nil {
				return nil, status.Error(codes.Internal, "a key of JWT-SVIDs is none")
			}
		}
		bundles.Add(b)
	}
	for _, f := range s.foreign(own).All() {
		if b, err := jwtbundle.Parse(f.TrustDomain, f.JWTKeys); err == nil && f.JWTKeys != nil {
			bundles.Add(b)
		}
	}
	if bundles.Len() == 0 {
		return nil, errNoJWT
	}
	svid, err := jwtsvid.ParseAndValidate(r.GetSvid(), bundles, []string{r.GetAudience()})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if _, err := identity.ParseURI(svid.ID.String()); err != nil && svid.ID.TrustDomain() == own {
		return nil, status.Error(codes.InvalidArgument, "it is not the identity of a service")
	}
	if r := v.Revoked().ID(identity.ID(svid.ID.String())); r != nil {
		return nil, status.Error(codes.InvalidArgument, r.Why())
	}
	claims, err := structpb.NewStruct(svid.Claims)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "its claims cannot be told")
	}
	return &workloadpb.ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}
