Kind     = "service-defaults"
Name     = "api"
Protocol = "http2"
Config {
  intention_enforcement = "ext_authz"
}
