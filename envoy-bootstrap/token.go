package bootstrap

import (
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// errToken marks a token that cannot be sent in a header. The token is not in the error's text.
var errToken = errors.New("not a token")

// maxToken is more than any token needs, and less than what a server takes as a header.
const maxToken = 8192

// TokenFile is the content of the file from which Envoy reads the proxy's token, the resource
// behind Params.TokenFile. The file is as secret as the token: mode 0600, written beside the old
// one and renamed over it.
func TokenFile(token string) ([]byte, error) {
	if token == "" || len(token) > maxToken {
		return nil, fmt.Errorf("%w: %d bytes long", errToken, len(token))
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' { // a line break would begin another header
			return nil, fmt.Errorf("%w: holds the character %q", errToken, token[i])
		}
	}
	secret, err := pack(&tlsv3.Secret{
		Name: tokenSecret,
		Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
			Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "Bearer " + token}},
		}},
	})
	if err != nil {
		return nil, err
	}
	return marshal(&discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{secret}})
}
