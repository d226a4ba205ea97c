# The service that the others want to reach. Its application answers http on port 18080; nobody but its sidecar should ask it there.
service {
  name    = "api"
  id      = "api"
  address = "127.0.0.1"
  port    = 18080

  connect {
    sidecar_service {
      port = 18100
    }
  }
}
