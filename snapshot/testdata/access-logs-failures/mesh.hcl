services {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        upstreams = [{ destination_name = "db", local_bind_port = 9100 }, { destination_name = "web", local_bind_port = 9101 }]
        expose { paths { path = "/health" local_path_port = 8080 listener_port = 21500 } }
      }
    }
  }
}
services {
  name = "db"
  port = 5432
  connect { sidecar_service {} }
}
