# Idle connections: one service ends them after a while, one never.
services {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21000
      proxy {
        config { local_idle_timeout_ms = 90000 }
      }
    }
  }
}

services {
  name = "queue"
  port = 5672
  connect {
    sidecar_service {
      port = 21001
      proxy {
        config { local_idle_timeout_ms = 0 }
      }
    }
  }
}
