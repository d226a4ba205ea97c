package xds

import (
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/types/known/structpb"
)

// Place is where an Envoy runs, as far as its bootstrap says. It is comparable. The zero value is one
// that does not say.
type Place struct {
	// Network names its network namespace: Envoys of one share its ports. Empty: not known.
	Network string
	// Admin is where its administration listens: "ip:port", or "unix:" and a path. Empty: not known.
	Admin string
}

// maxPlace bounds what is kept of either.
const maxPlace = 512

// placeOf reads it from the metadata of an Envoy's node, which may be nil.
func placeOf(metadata *structpb.Struct) Place {
	ours := metadata.GetFields()[identity.MetadataKey].GetStructValue().GetFields()
	text := func(key string) string {
		if s := ours[key].GetStringValue(); len(s) <= maxPlace {
			return s
		}
		return ""
	}
	return Place{Network: text(identity.MetadataNetwork), Admin: text(identity.MetadataAdmin)}
}

// place tells Config.Placed where the Envoy of a stream runs, before it is told anything.
func (s *Server) place(id identity.ProxyID, at Place) {
	if s.placed == nil {
		return
	}
	s.mu.Lock()
	p := s.proxies[id]
	alone := p == nil || len(p.sessions) == 0
	s.mu.Unlock()
	s.placed(id, at, alone)
}
