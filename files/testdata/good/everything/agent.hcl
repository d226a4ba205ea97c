config_entries {
  bootstrap = [
    {
      kind = "service-intentions"
      name = "db"
      sources = [
        {
          name   = "web"
          action = "deny"
        }
      ]
    },
    {
      kind = "service-intentions"
      name = "web"
      sources = [
        {
          name   = "*"
          action = "allow"
        }
      ]
      meta {
        owner = "web-team"
      }
    }
  ]
}
