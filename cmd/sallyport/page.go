package main

import (
	"html/template"
	"net/http"
	"time"
)

// page is what a browser gets at the metrics address.
var page = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sallyport</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 46rem; padding: 0 1rem; color: #1a1a1a; background: #fff }
h1 { font-size: 1.4rem }
table { border-collapse: collapse; width: 100% }
td { border-top: 1px solid #ccc; padding: .4rem .8rem .4rem 0; vertical-align: top }
code { font-family: ui-monospace, monospace }
.ready { color: #11632a }
.trouble { color: #a11717 }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #16181c } a { color: #8ab4f8 } td { border-color: #444 } .ready { color: #6fcf8f } .trouble { color: #ff8a80 } }
</style>
</head>
<body>
<h1>sallyport {{ .Version }}</h1>
<p>The control plane of {{ if .TrustDomain }}the mesh <code>{{ .TrustDomain }}</code>{{ else }}a mesh that is not known yet{{ end }}, since {{ .Started }}. {{ .Proxies }}, {{ .Connected }} connected.</p>
{{ if .NotReady }}<p class="trouble">Not ready:</p><ul>{{ range .NotReady }}<li>{{ . }}</li>{{ end }}</ul>{{ else }}<p class="ready">Ready.</p>{{ end }}
{{ if .NotTaken }}<p class="trouble">Files that are not taken:</p><ul>{{ range .NotTaken }}<li>{{ . }}</li>{{ end }}</ul>{{ end }}
<table>
<tr><td><a href="/metrics"><code>/metrics</code></a></td><td>metrics for Prometheus</td></tr>
<tr><td><a href="/healthz"><code>/healthz</code></a></td><td>200 as long as the process answers</td></tr>
<tr><td><a href="/readyz"><code>/readyz</code></a></td><td>200 when sidecars can be served, else 503 and why not</td></tr>
</table>
<p>More is on the admin socket: <code>sallyport check</code>, <code>sallyport status</code>.</p>
</body>
</html>
`))

// home says what there is at the metrics address. It says nothing that /metrics and /readyz do not.
func (p *controlPlane) home(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	all, connected := 0, 0
	for _, s := range p.xds.Status() {
		all++
		if s.Connected {
			connected++
		}
	}
	about := struct {
		Version, TrustDomain, Started, Proxies string
		Connected                              int
		NotReady, NotTaken                     []string
	}{
		Version: versionText(), Started: p.started.UTC().Format(time.RFC3339), Proxies: count(all, "proxy"), Connected: connected, NotReady: p.notReady(),
	}
	if td, ok := p.authority.trustDomain(); ok {
		about.TrustDomain = td.Name()
	}
	for _, n := range p.source.status().NotTaken {
		about.NotTaken = append(about.NotTaken, n.String())
	}
	_ = page.Execute(w, about) // who went away needs no page
}
