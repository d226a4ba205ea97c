Kind = "service-intentions"
Name = "by-both"
Sources = [
  { Name = "web", Action = "allow" },
  { Name = "batch", Action = "deny" },
]
