node_name      = "a"
retry_join     = ["server"]
retry_interval = "1s"

services {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        upstreams = [{ destination_name = "api", local_bind_port = 9191 }]
      }
    }
  }
}

services {
  name = "db"
  port = 9000
  connect {
    sidecar_service { port = 21001 }
  }
}
