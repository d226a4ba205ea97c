# A sidecar that takes no HTTP/1.0, neither on upstreams nor on exposed paths.
services {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        config { accept_http_10 = false }
        upstreams = [{ destination_name = "api", local_bind_port = 9101 }]
        expose { paths = [{ path = "/healthz", listener_port = 21600, local_path_port = 8080 }] }
      }
    }
  }
}

services {
  name = "api"
  port = 8081
  connect {
    sidecar_service { port = 21001 }
  }
}

config_entries {
  bootstrap = [{ kind = "service-defaults", name = "api", protocol = "http" }]
}
