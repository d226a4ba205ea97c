Kind = "service-intentions"
Name = "db"
Sources = [
  { Name = "bad", Action = "deny" },
  { Name = "*", Action = "allow" },
]
