Kind = "service-intentions"
Name = "by-rbac"
Sources = [
  { Name = "web", Action = "allow" },
  { Name = "batch", Action = "deny" },
]
