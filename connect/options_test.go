package connect

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/connect/internal/apitest"
)

func TestEnvironment(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	ca := filepath.Join(dir, "ca.pem")
	junk := filepath.Join(dir, "junk")
	empty := filepath.Join(dir, "empty")
	for file, text := range map[string]string{token: "secret\n", ca: apitest.PEM(apitest.NewRoot(t).Cert), junk: "x\ny", empty: "\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type result struct{ Address, Socket, Token string }
	tests := map[string]struct {
		env     map[string]string
		options Options
		want    result
		err     string
	}{
		"nothing":          {want: result{Address: "http://127.0.0.1:8500"}},
		"address":          {env: map[string]string{"CONSUL_HTTP_ADDR": "consul.example:8500"}, want: result{Address: "http://consul.example:8500"}},
		"IPv6":             {env: map[string]string{"CONSUL_HTTP_ADDR": "[::1]:8500"}, want: result{Address: "http://[::1]:8500"}},
		"http":             {env: map[string]string{"CONSUL_HTTP_ADDR": "http://consul.example:80/"}, want: result{Address: "http://consul.example:80"}},
		"a prefix":         {env: map[string]string{"CONSUL_HTTP_ADDR": "https://consul.example/consul/"}, want: result{Address: "https://consul.example/consul"}},
		"TLS":              {env: map[string]string{"CONSUL_HTTP_ADDR": "consul.example:8501", "CONSUL_HTTP_SSL": "true"}, want: result{Address: "https://consul.example:8501"}},
		"TLS wins":         {env: map[string]string{"CONSUL_HTTP_ADDR": "http://consul.example:8501", "CONSUL_HTTP_SSL": "1"}, want: result{Address: "https://consul.example:8501"}},
		"a socket":         {env: map[string]string{"CONSUL_HTTP_ADDR": "unix:///run/http.sock"}, want: result{Address: "unix:///run/http.sock", Socket: "/run/http.sock"}},
		"options win":      {env: map[string]string{"CONSUL_HTTP_ADDR": "a:1", "CONSUL_HTTP_TOKEN": "a"}, options: Options{Address: "b:2", Token: "b"}, want: result{Address: "http://b:2", Token: "b"}},
		"a token":          {env: map[string]string{"CONSUL_HTTP_TOKEN": "a"}, want: result{Address: "http://127.0.0.1:8500", Token: "a"}},
		"a file":           {env: map[string]string{"CONSUL_HTTP_TOKEN_FILE": token}, want: result{Address: "http://127.0.0.1:8500", Token: "secret"}},
		"the file wins":    {env: map[string]string{"CONSUL_HTTP_TOKEN_FILE": token, "CONSUL_HTTP_TOKEN": "a"}, want: result{Address: "http://127.0.0.1:8500", Token: "secret"}},
		"but not of these": {env: map[string]string{"CONSUL_HTTP_TOKEN_FILE": token}, options: Options{Token: "b"}, want: result{Address: "http://127.0.0.1:8500", Token: "b"}},
		"CA":               {env: map[string]string{"CONSUL_HTTP_ADDR": "https://a:1", "CONSUL_CACERT": ca}, want: result{Address: "https://a:1"}},
		"namespace":        {env: map[string]string{"CONSUL_NAMESPACE": "default"}, want: result{Address: "http://127.0.0.1:8500"}},

		"no scheme of ours":    {env: map[string]string{"CONSUL_HTTP_ADDR": "ftp://a"}, err: `has the scheme "ftp": write http, https or unix`},
		"no path":              {env: map[string]string{"CONSUL_HTTP_ADDR": "unix://"}, err: "has no path"},
		"no host":              {env: map[string]string{"CONSUL_HTTP_ADDR": "http://"}, err: "no host and port"},
		"junk host":            {env: map[string]string{"CONSUL_HTTP_ADDR": "a b:80"}, err: "no host and port"},
		"user in it":           {env: map[string]string{"CONSUL_HTTP_ADDR": "http://u:p@a:80"}, err: "no host and port"},
		"junk boolean":         {env: map[string]string{"CONSUL_HTTP_SSL": "maybe"}, err: `CONSUL_HTTP_SSL is "maybe": write true or false`},
		"another namespace":    {env: map[string]string{"CONSUL_NAMESPACE": "team"}, err: "unset it"},
		"another partition":    {env: map[string]string{"CONSUL_PARTITION": "team"}, err: "unset it"},
		"no token file":        {env: map[string]string{"CONSUL_HTTP_TOKEN_FILE": dir + "/nothing"}, err: "no such file"},
		"an empty token file":  {env: map[string]string{"CONSUL_HTTP_TOKEN_FILE": empty}, err: "is empty: write a token into it"},
		"a junk token file":    {env: map[string]string{"CONSUL_HTTP_TOKEN_FILE": junk}, err: "more than one line"},
		"no CA file":           {env: map[string]string{"CONSUL_HTTP_ADDR": "https://a:1", "CONSUL_CACERT": dir + "/nothing"}, err: "no such file"},
		"a junk CA file":       {env: map[string]string{"CONSUL_HTTP_ADDR": "https://a:1", "CONSUL_CACERT": junk}, err: "has none in PEM"},
		"no CA directory":      {env: map[string]string{"CONSUL_HTTP_ADDR": "https://a:1", "CONSUL_CAPATH": dir + "/nothing"}, err: "no certificates in"},
		"half a certificate":   {env: map[string]string{"CONSUL_HTTP_ADDR": "https://a:1", "CONSUL_CLIENT_CERT": ca}, err: "set both, or none"},
		"a junk certificate":   {env: map[string]string{"CONSUL_HTTP_ADDR": "https://a:1", "CONSUL_CLIENT_CERT": ca, "CONSUL_CLIENT_KEY": ca}, err: "certificate for the API"},
		"a junk verification":  {env: map[string]string{"CONSUL_HTTP_ADDR": "https://a:1", "CONSUL_HTTP_SSL_VERIFY": "x"}, err: "CONSUL_HTTP_SSL_VERIFY"},
		"a negative intervall": {options: Options{RevocationInterval: -1}, err: "RevocationInterval"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			tt.options.Logger = launchLogger
			s, err := NewService(t.Context(), "web", tt.options)
			if err != nil {
				if tt.err == "" || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			defer s.Close()
			if tt.err != "" {
				t.Fatalf("no error, want %q", tt.err)
			}
			got := result{s.api.env.address(), s.api.env.socket, s.api.token.get()}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestServiceNames(t *testing.T) {
	for _, name := range []string{"", "a/b", "a b", "été", "*", "a%20b", ".."} {
		if s, err := NewService(t.Context(), name, Options{}); err == nil {
			s.Close()
			t.Errorf("%q is a service", name)
		}
	}
}
