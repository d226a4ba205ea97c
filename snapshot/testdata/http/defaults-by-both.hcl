Kind     = "service-defaults"
Name     = "by-both"
Protocol = "http"
