package authz

import "context"

// FillLane takes all turns of long requests, until leave is called.
func (s *Server) FillLane(ctx context.Context) (leave func()) {
	for range cap(s.long) {
		if _, err := s.long.enter(ctx); err != nil {
			panic(err)
		}
	}
	return func() {
		for range cap(s.long) {
			<-s.long
		}
	}
}
