# http: requests are told apart.
Kind     = "service-defaults"
Name     = "api"
Protocol = "http"
