# Exposed paths: of the application's own port, of another one in both protocols, of a service whose protocol is tcp, and of an application on a socket.
services {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        expose {
          paths = [
            { path = "/healthz", listener_port = 21600, local_path_port = 8080 },
            { path = "/v1/metrics", listener_port = 21602, local_path_port = 9090 },
            { path = "/v1/metrics/", listener_port = 21601, local_path_port = 9090 },
            { path = "/grpc.health.v1.Health/Check", listener_port = 21603, local_path_port = 9091, protocol = "http2" },
          ]
        }
      }
    }
  }
}

services {
  name    = "db"
  address = "fd00::1"
  port    = 5432
  connect {
    sidecar_service {
      port = 21001
      proxy {
        local_service_address = "localhost"
        expose {
          paths {
            path            = "/"
            listener_port   = 21600
            local_path_port = 5432
          }
          paths {
            path            = "/h2"
            listener_port   = 21601
            local_path_port = 5433
            protocol        = "http2"
          }
        }
      }
    }
  }
}

services {
  name        = "cache"
  socket_path = "/run/cache.sock"
  connect {
    sidecar_service {
      port = 21002
      proxy {
        config { local_connect_timeout_ms = 1500 }
        expose { paths = [{ path = "/healthz", listener_port = 21610, local_path_port = 8080 }] }
      }
    }
  }
}
