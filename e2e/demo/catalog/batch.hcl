# Another application that dials api, at port 18182.
service {
  name    = "batch"
  id      = "batch"
  address = "127.0.0.1"
  port    = 18082

  connect {
    sidecar_service {
      port = 18102
      proxy {
        upstreams = [
          {
            destination_name = "api"
            local_bind_port  = 18182
          },
        ]
      }
    }
  }
}
