node_name      = "b"
retry_join     = ["server"]
retry_interval = "1s"

services {
  name = "api"
  port = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        upstreams = [{ destination_name = "db", local_bind_port = 9192 }]
      }
    }
  }
}

services {
  name = "batch"
  port = 8080
  connect {
    sidecar_service {
      port = 21001
      proxy {
        upstreams = [{ destination_name = "api", local_bind_port = 9193 }]
      }
    }
  }
}
