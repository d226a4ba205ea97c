package main

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// answers stands between sallyport and a Consul agent and notes when the agent tells of a change:
// what was before that is the agent's.
type answers struct {
	server *meshtest.Server

	mu  sync.Mutex
	all []answer
}

type answer struct {
	path   string
	at     time.Time
	waited bool
}

func noteAnswers(agent string) (*answers, error) {
	a := &answers{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: agent})
	// As many as sallyport has: none is to be opened anew for each query.
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 200, DisableCompression: true}
	proxy.ModifyResponse = func(r *http.Response) error {
		index := r.Request.URL.Query().Get("index")
		if r.Header.Get("X-Consul-Index") == index {
			return nil // it waited in vain
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.all = append(a.all, answer{r.Request.URL.Path, time.Now(), index != ""})
		return nil
	}
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) {
		w.WriteHeader(http.StatusBadGateway) // sallyport lets queries go as it ends
	}
	s, err := meshtest.ServeHTTP("127.0.0.1:0", "", proxy)
	if err != nil {
		return nil, err
	}
	a.server = s
	return a, nil
}

// after is how long after since the first answer came to a query whose path begins so, and that waited.
func (a *answers) after(since time.Time, path string) (time.Duration, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.all {
		if n.waited && strings.HasPrefix(n.path, path) && n.at.After(since) {
			return n.at.Sub(since), nil
		}
	}
	return 0, fmt.Errorf("no answer of the agent to %s", path)
}

// last is how long after since the last answer came to a query whose path begins so: after one that waited long sallyport asks again, whether
// the token may have it still.
func (a *answers) last(since time.Time, path string) (time.Duration, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range slices.Backward(a.all) {
		if strings.HasPrefix(n.path, path) && n.at.After(since) {
			return n.at.Sub(since), nil
		}
	}
	return 0, fmt.Errorf("no answer of the agent to %s", path)
}
