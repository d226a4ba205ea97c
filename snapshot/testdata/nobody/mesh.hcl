# No intention is about db, and the default denies.
service {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21000
    }
  }
}
