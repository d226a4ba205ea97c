service {
  name    = "db"
  address = "db"
  port    = 9000
  connect {
    sidecar_service { port = 21000 }
  }
}
