# web dials api and db. Its sidecar is reached under the name that docker gives the container.
service {
  name    = "web"
  address = "web"
  port    = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        upstreams = [
          { destination_name = "api", local_bind_port = 9191 },
          { destination_name = "db", local_bind_port = 9192 },
        ]
      }
    }
  }
}
