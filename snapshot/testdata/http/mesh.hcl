# Each of the three modes of enforcement, for services of protocol http. web may reach them, batch is denied by name, the rest by default.

services {
  name = "by-rbac"
  port = 8080
  connect {
    sidecar_service {
      port = 21000
      proxy {
        config {
          intention_enforcement = "rbac"
        }
      }
    }
  }
}

services {
  name = "by-ext-authz"
  port = 8081
  connect {
    sidecar_service {
      port = 21001
      proxy {
        config {
          intention_enforcement = "ext_authz"
        }
      }
    }
  }
}

services {
  name = "by-both"
  port = 8082
  connect {
    sidecar_service {
      port = 21002
      proxy {
        config {
          intention_enforcement = "both"
        }
      }
    }
  }
}

services {
  name = "web"
  port = 8090
  connect {
    sidecar_service {
      port = 21010
      proxy {
        upstreams = [
          { destination_name = "by-rbac", local_bind_port = 9101 },
          { destination_name = "by-both", local_bind_port = 9102 },
        ]
      }
    }
  }
}
