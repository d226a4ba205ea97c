# Applications that speak mutual TLS themselves, dialled by a sidecar: one beside instances with sidecars, one on an
# address that is a name, one that speaks http.
services {
  name    = "mail"
  id      = "mail-native"
  address = "10.0.0.9"
  port    = 8443
  weights { passing = 3 }
  connect { native = true }
}
services {
  name    = "mail"
  id      = "mail-sidecar"
  address = "10.0.0.8"
  port    = 25
  connect {
    sidecar_service { port = 21000 }
  }
}
services {
  name = "queue"
  address = "queue.example"
  port = 8444
  connect { native = true }
}
services {
  name = "api"
  port = 8445
  check { status = "critical" }
  connect { native = true }
}
services {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      port = 21001
      proxy {
        upstreams {
          destination_name = "mail"
          local_bind_port  = 5000
        }
        upstreams {
          destination_name = "queue"
          local_bind_port  = 5001
        }
        upstreams {
          destination_name = "api"
          local_bind_port  = 5002
        }
      }
    }
  }
}
config_entries {
  bootstrap {
    Kind     = "service-defaults"
    Name     = "api"
    Protocol = "http"
  }
}
