# IPv6 everywhere: where Envoy listens, the application, the upstream's endpoints, and where the application dials.
services {
  name    = "web"
  address = "::1"
  port    = 8080
  connect {
    sidecar_service {
      address = "::1"
      port    = 21000
      proxy {
        local_service_address = "::1"
        upstreams = [
          { destination_name = "api", local_bind_address = "::1", local_bind_port = 9101 },
        ]
      }
    }
  }
}

services {
  name    = "api"
  id      = "api-1"
  address = "fd00::1"
  port    = 8080
  connect {
    sidecar_service {
      port = 21001
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
      port = 21001
    }
  }
}
