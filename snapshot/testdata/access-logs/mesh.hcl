services {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        upstreams = [{ destination_name = "db", local_bind_port = 9100 }, { destination_name = "api", local_bind_port = 9101 }]
      }
    }
  }
}
services {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      proxy {
        # Instead of what all others have.
        access_logs { enabled = true type = "stderr" disable_listener_logs = true json_format = "{\"who\":\"twice\",\"who\":\"%DOWNSTREAM_PEER_URI_SAN%\",\"n\":{\"b\":\"%BYTES_SENT%\",\"l\":[\"%PROTOCOL%\",1.5,true,null]}}" }
      }
    }
  }
}
