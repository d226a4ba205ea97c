# Every key that is supported, as Consul's agent has it.
service {
  kind                = ""
  name                = "web"
  id                  = "web-1"
  address             = "10.0.0.1"
  port                = 8080
  tags                = ["v1", "primary"]
  enable_tag_override = false
  namespace           = "default"
  partition           = "default"
  meta {
    version = "1.2.3"
  }
  weights {
    passing = 10
    warning = 2
  }
  checks = [
    {
      name     = "http"
      http     = "http://127.0.0.1:8080/health"
      interval = "10s"
      status   = "passing"
    },
    {
      name     = "disk"
      args     = ["check-disk"]
      interval = "1m"
      status   = "warning"
    }
  ]
  connect {
    sidecar_service {
      name = "web-proxy"
      port = 20000
      meta {
        a = "b"
      }
      proxy {
        mode                  = "direct"
        local_service_address = "127.0.0.2"
        local_service_port    = 8081
        mesh_gateway {
          mode = "none"
        }
        config {
          protocol                    = "http"
          local_connect_timeout_ms    = 1000
          local_request_timeout_ms    = 2000
          local_idle_timeout_ms       = 0
          max_inbound_connections     = 100
          bind_address                = "0.0.0.0"
          bind_port                   = 20001
          balance_inbound_connections = "exact_balance"
          envoy_prometheus_bind_addr  = "0.0.0.0:9102"
          intention_enforcement       = "both"
          revocation                  = "drain"
          sallyport_uid               = 1234
        }
        upstreams = [
          {
            destination_name      = "api"
            destination_type      = "service"
            destination_namespace = "default"
            destination_partition = "default"
            datacenter            = "dc1"
            local_bind_address    = "127.0.0.1"
            local_bind_port       = 9191
            config {
              protocol           = "tcp"
              connect_timeout_ms = 3000
              limits {
                max_connections         = 1
                max_pending_requests    = 0
                max_concurrent_requests = 3
              }
              passive_health_check {
                interval                  = "30s"
                max_failures              = 10
                enforcing_consecutive_5xx = 50
                max_ejection_percent      = 20
                base_ejection_time        = "1m"
              }
              balance_outbound_connections = "exact_balance"
            }
          },
          {
            destination_name       = "db"
            local_bind_socket_path = "/run/db.sock"
            local_bind_socket_mode = "0700"
          },
        ]
        expose {
          checks = false
          paths = [
            { path = "/metrics", listener_port = 21601, local_path_port = 9100, protocol = "http2" },
            { Path = "/healthz", ListenerPort = 21600, LocalPathPort = 8081, ParsedFromCheck = false },
          ]
        }
      }
    }
  }
}
