# The application speaks first: what only ext_authz denies hears it, which a warning says.
service {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21000
      proxy {
        config {
          intention_enforcement = "both"
          server_first          = true
        }
      }
    }
  }
}
