# More connections than the limits of Envoy, which the way to the application follows.
services {
  name = "api"
  port = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        config { max_inbound_connections = 5000 }
      }
    }
  }
}

services {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21001
      proxy {
        config { max_inbound_connections = 1025 }
      }
    }
  }
}

config_entries {
  bootstrap = [{ kind = "service-defaults", name = "api", protocol = "http" }]
}
