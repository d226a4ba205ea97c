# TLS 1.2 for those who cannot do better, and no client certificate for the application.
service {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21000
    }
  }
}
