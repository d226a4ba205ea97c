Kind     = "service-defaults"
Name     = "by-rbac"
Protocol = "tcp"
