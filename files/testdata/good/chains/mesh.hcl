# web dials api, of which there are three versions, and shop, which is another name of it; admin stands beside.
services = [
  {
    name = "web"
    port = 8080
    connect {
      sidecar_service {
        proxy {
          upstreams = [
            { destination_name = "api", local_bind_port = 9191 },
            { destination_name = "shop", local_bind_port = 9192 },
            { destination_name = "db", local_bind_port = 9193 },
            { destination_name = "plain", local_bind_port = 9194 },
          ]
        }
      }
    }
  },
  {
    name = "api"
    id   = "api-1"
    port = 8081
    meta { version = "1" }
    connect { sidecar_service { port = 20001 } }
  },
  {
    name = "api"
    id   = "api-2"
    port = 8082
    meta { version = "2" }
    tags = ["canary"]
    check { status = "warning" }
    connect { sidecar_service { port = 20002 } }
  },
  {
    name = "api"
    id   = "api-3"
    port = 8083
    meta { version = "2" }
    check { status = "critical" }
    connect { sidecar_service { port = 20003 } }
  },
  {
    name = "admin"
    port = 8084
    connect { native = true }
  },
  {
    name = "db"
    port = 8085
    connect { sidecar_service { port = 20005 } }
  },
  {
    name = "db-standby"
    port = 8086
    connect { sidecar_service { port = 20006 } }
  },
  {
    name = "plain"
    port = 8087
    connect { sidecar_service { port = 20007 } }
  },
]
