# Everybody of the mesh may reach db.
service {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21000
    }
  }
}
