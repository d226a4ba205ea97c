# An application that dials api: on its own machine, at port 18491, without knowing of TLS.
service {
  name    = "web"
  id      = "web"
  address = "127.0.0.1"
  port    = 18482

  connect {
    sidecar_service {
      port = 18402
      proxy {
        upstreams = [
          {
            destination_name = "api"
            local_bind_port  = 18491
          },
        ]
      }
    }
  }
}
