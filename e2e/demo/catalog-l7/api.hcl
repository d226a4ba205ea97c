# Two versions of one service. Their applications answer on ports 18480 and 18481. Say "critical" of one, and save: the other answers.
services = [
  {
    name    = "api"
    id      = "api-v1"
    address = "127.0.0.1"
    port    = 18480

    meta {
      version = "1"
    }
    check {
      status = "passing"
    }
    connect {
      sidecar_service {
        port = 18400
      }
    }
  },
  {
    name    = "api"
    id      = "api-v2"
    address = "127.0.0.1"
    port    = 18481

    meta {
      version = "2"
    }
    check {
      status = "passing"
    }
    connect {
      sidecar_service {
        port = 18401
      }
    }
  },
]
