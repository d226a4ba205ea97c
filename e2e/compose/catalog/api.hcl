# api answers http requests, and dials db.
service {
  name    = "api"
  address = "api"
  port    = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        upstreams = [{ destination_name = "db", local_bind_port = 9192 }]
      }
    }
  }
}
