# Limits and timeouts of the inbound side.
service {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21000
      proxy {
        config {
          max_inbound_connections     = 100
          balance_inbound_connections = "exact_balance"
          local_connect_timeout_ms    = 1500
          local_request_timeout_ms    = 20000
          local_idle_timeout_ms       = 0
        }
      }
    }
  }
}
