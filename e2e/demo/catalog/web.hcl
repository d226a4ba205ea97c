# An application that dials api: on its own machine, at port 18181, without knowing of TLS.
service {
  name    = "web"
  id      = "web"
  address = "127.0.0.1"
  port    = 18081

  connect {
    sidecar_service {
      port = 18101
      proxy {
        upstreams = [
          {
            destination_name = "api"
            local_bind_port  = 18181
          },
        ]
      }
    }
  }
}
