# An application and an endpoint that are known by name: Envoy asks for their addresses.
services {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        local_service_address = "localhost"
        upstreams = [
          { destination_name = "api", local_bind_port = 9101 },
        ]
      }
    }
  }
}

services {
  name    = "api"
  id      = "api-1"
  address = "api.example.com"
  port    = 8080
  connect {
    sidecar_service {
      address = "api.example.com"
      port    = 21001
      proxy {
        config {
          bind_address = "0.0.0.0"
        }
      }
    }
  }
}

services {
  name    = "api"
  id      = "api-2"
  address = "10.0.0.2"
  port    = 8080
  connect {
    sidecar_service {
      address = "10.0.0.2"
      port    = 21001
      proxy {
        config {
          bind_address = "0.0.0.0"
        }
      }
    }
  }
  checks = [
    { name = "up", status = "critical" },
  ]
}
