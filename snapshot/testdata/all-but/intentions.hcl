Kind = "service-intentions"
Name = "db"
Sources = [
  { Name = "bad", Action = "deny" },
  { Name = "b.d", Action = "deny" },
  { Name = "good", Action = "allow" },
  { Name = "*", Action = "allow" },
]
