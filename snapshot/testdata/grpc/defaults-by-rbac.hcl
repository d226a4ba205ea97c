Kind     = "service-defaults"
Name     = "by-rbac"
Protocol = "grpc"
