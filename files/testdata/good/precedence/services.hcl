services {
  name = "nothing-said"
  port = 1
  connect { sidecar_service {} }
}
services {
  name = "by-service"
  port = 2
  connect { sidecar_service {} }
}
services {
  name = "by-proxy"
  port = 3
  connect {
    sidecar_service {
      proxy {
        config {
          local_connect_timeout_ms = 3
          intention_enforcement    = "rbac"
        }
        upstreams {
          destination_name = "u-own"
          local_bind_port  = 9001
          config { connect_timeout_ms = 3 }
        }
        upstreams {
          destination_name = "u-override"
          local_bind_port  = 9002
        }
        upstreams {
          destination_name = "u-default"
          local_bind_port  = 9003
        }
      }
    }
  }
}
services {
  name = "speaks-first"
  port = 4
  connect { sidecar_service {} }
}
