# http: intentions are decided for each request, and a denial is an answer (403).
Kind     = "service-defaults"
Name     = "api"
Protocol = "http"
