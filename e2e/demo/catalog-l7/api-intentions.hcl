# Who may ask api for what. The first permission that a request meets decides. Change an action and save: it counts for the next request.
Kind = "service-intentions"
Name = "api"
Sources = [
  {
    Name = "web"
    Permissions = [
      {
        Action = "allow"
        HTTP {
          PathPrefix = "/admin"
        }
      },
      {
        Action = "allow"
        HTTP {
          PathPrefix = "/"
        }
      },
    ]
  },
]
