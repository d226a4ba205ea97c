# Everybody but two may reach db. One of the names holds what means something in expressions.
service {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21000
    }
  }
}
