# Unix sockets on both sides of the proxy.
service {
  name        = "web"
  socket_path = "/run/web/web.sock"
  connect {
    sidecar_service {
      port = 21000
      proxy {
        upstreams = [
          { destination_name = "db", local_bind_socket_path = "/run/web/db.sock" },
          { destination_name = "api", local_bind_socket_path = "/run/web/api.sock", local_bind_socket_mode = "0660" },
        ]
      }
    }
  }
}
