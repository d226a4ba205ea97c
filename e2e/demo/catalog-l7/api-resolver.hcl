# Which instances are of which version. While none of version 2 is well, version 1 answers for it.
Kind          = "service-resolver"
Name          = "api"
DefaultSubset = "v1"

Subsets {
  v1 {
    Filter = "Service.Meta.version == 1"
  }
  v2 {
    Filter = "Service.Meta.version == 2"
  }
}

Failover {
  v2 {
    Targets = [{ ServiceSubset = "v1" }]
  }
}
