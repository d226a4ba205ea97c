# As nobody, with requests.
service {
  name = "db"
  port = 5432
  connect {
    sidecar_service {
      port = 21000
    }
  }
}
