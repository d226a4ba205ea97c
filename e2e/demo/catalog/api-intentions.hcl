# Who may reach api. Change an action and save: it counts within a second.
Kind = "service-intentions"
Name = "api"
Sources = [
  {
    Name   = "web"
    Action = "allow"
  },
  {
    Name   = "batch"
    Action = "deny"
  },
]
