# Limits, a passive health check and a timeout of an upstream.
services {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        upstreams = [
          {
            destination_name = "api"
            local_bind_port  = 9101
            config {
              connect_timeout_ms          = 500
              balance_outbound_connections = "exact_balance"
              limits {
                max_connections         = 10
                max_pending_requests    = 0
                max_concurrent_requests = 30
              }
              passive_health_check {
                interval                  = "10s"
                max_failures              = 3
                enforcing_consecutive_5xx = 100
                max_ejection_percent      = 50
                base_ejection_time        = "5s"
              }
            }
          },
        ]
      }
    }
  }
}

services {
  name    = "api"
  address = "10.0.0.1"
  port    = 8080
  weights {
    passing = 10
  }
  connect {
    sidecar_service {
      port    = 21001
      address = "10.0.0.1"
      proxy {
        config {
          bind_address = "0.0.0.0"
        }
      }
    }
  }
}
