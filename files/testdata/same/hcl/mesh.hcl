services = [
  {
    name = "web"
    port = 8080
    connect = {
      sidecar_service = {
        proxy = {
          config = {
            local_request_timeout_ms = 1500
            sallyport_uid            = 4711
          }
          upstreams = [
            {
              destination_name = "api"
              local_bind_port  = 9191
              config = {
                limits               = { max_connections = 7 }
                passive_health_check = { interval = "5s" max_failures = 3 }
              }
            }
          ]
        }
      }
    }
  },
  {
    name    = "api"
    id      = "api-7"
    port    = 9090
    weights = { passing = 5 warning = 1 }
    check   = { name = "up" status = "warning" }
    connect = { sidecar_service = { port = 20100 } }
  }
]
