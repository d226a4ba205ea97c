config_entries {
  bootstrap = [
    {
      kind   = "service-router"
      name   = "api"
      routes = [
        {
          match { http { path_prefix = "/v2" header = [{ name = "x-a" present = true }] methods = ["get"] } }
          destination { service_subset = "v2" request_timeout = "5s" retry_on_status_codes = [503] request_headers { set { x-b = "1" } } }
        },
        { destination { prefix_rewrite = "" num_retries = 2 } },
      ]
    },
    {
      kind   = "service-splitter"
      name   = "api"
      splits = [{ weight = 99.5 service_subset = "v1" }, { weight = 0.5 service_subset = "v2" }]
    },
    {
      kind    = "service-resolver"
      name    = "api"
      subsets {
        v1 {}
        v2 { filter = "Service.Meta.version == 2" only_passing = true }
      }
      failover { v1 { targets = [{ service_subset = "v2" }] } }
      connect_timeout = "1500ms"
      load_balancer { policy = "ring_hash" ring_hash_config { minimum_ring_size = 64 } hash_policies = [{ field = "header" field_value = "x-a" terminal = true }] }
    },
  ]
}
