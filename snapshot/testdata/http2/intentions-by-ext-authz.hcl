Kind = "service-intentions"
Name = "by-ext-authz"
Sources = [
  { Name = "web", Action = "allow" },
  { Name = "batch", Action = "deny" },
]
