services {
  name = "api"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        upstreams {
          spiffe_id       = "spiffe://td-b.example/ns/prod/sa/billing"
          address         = "10.9.0.1"
          port            = 8443
          local_bind_port = 9191
        }
        upstreams {
          spiffe_id       = "spiffe://td-c.example/ledger"
          address         = "ledger.td-c.example"
          port            = 443
          protocol        = "http2"
          local_bind_port = 9192
        }
      }
    }
  }
}

services {
  name = "shop"
  port = 8081
  connect {
    sidecar_service {
      port = 21001
      proxy {
        config { intention_enforcement = "ext_authz" }
      }
    }
  }
}

config_entries {
  bootstrap = [
    {
      kind     = "service-defaults"
      name     = "shop"
      protocol = "http"
    },
    {
      kind = "service-intentions"
      name = "api"
      sources = [
        { name = "shop", action = "allow" },
        { spiffe_id = "spiffe://td-b.example/ns/prod/sa/foreign", action = "allow" },
        { spiffe_id = "spiffe://td-b.example/ns/prod/sa/denied", action = "deny" },
        { spiffe_id = "spiffe://td-unknown.example/x", action = "allow" },
        { spiffe_id = "spiffe://td-c.example/ledger", action = "allow" }
      ]
    },
    {
      kind = "service-intentions"
      name = "shop"
      sources = [
        { spiffe_id = "spiffe://td-b.example/ns/prod/sa/foreign", action = "allow" }
      ]
    }
  ]
}
