services {
  name = "db"
  id   = "db-1"
  port = 5432
}
services {
  kind = "connect-proxy"
  name = "db-proxy"
  port = 21000
  proxy {
    destination_service_name  = "db"
    destination_service_id    = "db-1"
    local_service_socket_path = "/run/db.sock"
  }
}
services {
  kind = "connect-proxy"
  name = "db-proxy"
  id   = "db-proxy-2"
  port = 21002
  proxy {
    destination_service_name = "db"
    local_service_address    = "::1"
    local_service_port       = 5433
    config {
      bind_address = "::"
    }
  }
}
services {
  name = "web"
  port = 21001
  connect { sidecar_service {} }
}
