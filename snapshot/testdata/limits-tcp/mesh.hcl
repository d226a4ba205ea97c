# The limit of connections comes before everything else.
service {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21000
      proxy {
        config {
          max_inbound_connections = 100
        }
      }
    }
  }
}
