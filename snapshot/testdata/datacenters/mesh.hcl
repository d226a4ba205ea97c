# web dials api and db; golden_test.go adds what files cannot say: that it dials both in dc2, too, and api with its own datacenter spelled out.
services {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        upstreams = [
          { destination_name = "api", local_bind_port = 9100 },
          { destination_name = "db", local_bind_socket_path = "/run/web/db" },
        ]
      }
    }
  }
}

services {
  name    = "api"
  address = "10.1.0.1"
  port    = 8080
  connect {
    sidecar_service {
      port    = 21001
      address = "10.1.0.1"
      proxy {
        config { bind_address = "0.0.0.0" }
      }
    }
  }
}

services {
  name    = "db"
  address = "10.1.0.2"
  port    = 5432
  connect {
    sidecar_service {
      port    = 21002
      address = "10.1.0.2"
      proxy {
        config { bind_address = "0.0.0.0" }
      }
    }
  }
}
