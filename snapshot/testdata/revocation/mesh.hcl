# Live connections of db end when access is taken away, those of cache do not: its chain keeps its name whatever the generation.
services {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21000
    }
  }
}

services {
  name = "cache"
  port = 6379
  connect {
    sidecar_service {
      port = 21001
      proxy {
        config {
          revocation = "new"
        }
      }
    }
  }
}
