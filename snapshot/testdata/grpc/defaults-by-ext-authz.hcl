Kind     = "service-defaults"
Name     = "by-ext-authz"
Protocol = "grpc"
