package authz_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"github.com/sallyport/sallyport/internal/latest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// viewsDenying have an intention of web about api with n permissions, each of which denies one team; of all others all is allowed.
func viewsDenying(t testing.TB, n int, match func(team string) intention.HeaderMatch) *latest.Value[*catalog.View] {
	t.Helper()
	var list []intention.Permission
	for i := range n {
		m := match(fmt.Sprint("team", i))
		m.Name = "x-team"
		list = append(list, intention.Permission{Action: intention.Deny, Headers: []intention.HeaderMatch{m}})
	}
	list = append(list, intention.Permission{Action: intention.Allow})
	i := intention.Intention{Source: intention.Source{Name: identity.NewName("web")}, Destination: identity.NewName("api"), Action: intention.Allow}
	if err := i.Ask(list, nil); err != nil {
		t.Fatal(err)
	}
	mesh := contents(scope(intention.Deny), identity.NewName("api"), []intention.Intention{i})
	mesh.Proxies[0].Inbound.Protocol = catalog.HTTP
	return published(scope(intention.Deny), mesh)
}

func exactly(team string) intention.HeaderMatch { return intention.HeaderMatch{Exact: team} }
func byRegex(team string) intention.HeaderMatch {
	return intention.HeaderMatch{Regex: team + "|x" + team}
}

// teams are so many lines of a header.
func teams(lines, length int) (all [][2]string) {
	for range lines {
		all = append(all, [2]string{"x-team", strings.Repeat("y", length)})
	}
	return all
}

// TestLongRequests: of requests that are long, where permissions look through what is long, one is decided at a time; others wait until
// nobody waits for them, and are refused then. All other requests pass at once.
func TestLongRequests(t *testing.T) {
	certificate := newIssuer(t).certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
	registry := prometheus.NewRegistry()
	s := newServer(t, authz.Config{
		Views: viewsDenying(t, 3, byRegex), Authorize: known, Registerer: registry,
	})
	check := func(headers [][2]string, patience time.Duration) codes.Code {
		req := request("http", uri("web"), certificate, "api")
		putRequest(req.GetAttributes().GetRequest().GetHttp(), &decisiontable.Request{Method: "GET", Path: "/", Headers: headers})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		resp, err := s.Check(call(ctx, "api"), req)
		if err != nil {
			return status.Code(err)
		}
		return codes.Code(resp.GetStatus().GetCode())
	}
	const minute = time.Minute
	leave := s.FillLane(t.Context())
	if got := check(teams(10, 5000), 50*time.Millisecond); got != codes.DeadlineExceeded {
		t.Errorf("a long request that does not get its turn: %s", got)
	}
	counted(t, registry, "sallyport_authz_errors_total", "cause", "long_requests")
	if got := check(teams(1, 10), minute); got != codes.OK {
		t.Errorf("a small request: %s", got)
	}
	if got := check([][2]string{{"x-other", strings.Repeat("y", 50000)}}, minute); got != codes.OK {
		t.Errorf("a request that is long where no permission looks: %s", got)
	}
	outcome := make(chan codes.Code)
	go func() { outcome <- check(teams(10, 5000), minute) }()
	select {
	case got := <-outcome:
		t.Errorf("a long request does not wait: %s", got)
	case <-time.After(50 * time.Millisecond):
	}
	leave()
	if got := <-outcome; got != codes.OK {
		t.Errorf("a long request that gets its turn: %s", got)
	}
	if got := check(append(teams(10, 5000), [2]string{"x-team", "team2"}), minute); got != codes.PermissionDenied {
		t.Errorf("a long request that is to be denied: %s", got)
	}
}

// TestHeadersAreMadeOnce: what a decision allocates does not grow with how many permissions look at a header.
func TestHeadersAreMadeOnce(t *testing.T) {
	certificate := newIssuer(t).certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
	allocations := func(permissions int, headers [][2]string) float64 {
		s := newServer(t, authz.Config{Views: viewsDenying(t, permissions, exactly), Authorize: known})
		req := request("http", uri("web"), certificate, "api")
		putRequest(req.GetAttributes().GetRequest().GetHttp(), &decisiontable.Request{Method: "GET", Path: "/", Headers: headers})
		ctx := call(t.Context(), "api")
		return testing.AllocsPerRun(100, func() {
			if _, err := s.Check(ctx, req); err != nil {
				t.Error(err)
			}
		})
	}
	for name, headers := range map[string][][2]string{"none": nil, "once": teams(1, 100), "repeated": teams(20, 100)} {
		if few, many := allocations(100, headers), allocations(200, headers); many > few {
			t.Errorf("%s: %v allocations with 100 permissions, %v with 200", name, few, many)
		}
	}
}

// BenchmarkLongRequest is a request of 51 KB, with 90 lines of the header at which 200 permissions look.
func BenchmarkLongRequest(b *testing.B) {
	certificate := newIssuer(b).certificate(b, decisiontable.Peer{URIs: []string{uri("web")}})
	for name, match := range map[string]func(string) intention.HeaderMatch{"exact": exactly, "regex": byRegex} {
		for _, lines := range []int{1, 90} {
			b.Run(fmt.Sprintf("%s,lines=%d", name, lines), func(b *testing.B) {
				s := newServer(b, authz.Config{Views: viewsDenying(b, 200, match), Authorize: known})
				req := request("http", uri("web"), certificate, "api")
				length := 570
				if lines == 1 {
					length = 10
				}
				putRequest(req.GetAttributes().GetRequest().GetHttp(), &decisiontable.Request{Method: "GET", Path: "/", Headers: teams(lines, length)})
				ctx := call(b.Context(), "api")
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.Check(ctx, req); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
