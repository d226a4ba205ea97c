Kind     = "service-defaults"
Name     = "by-rbac"
Protocol = "http2"
