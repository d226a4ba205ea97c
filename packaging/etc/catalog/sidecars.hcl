# The user that sallyport-envoy@.service runs as may have the sidecars' tokens.
Kind = "proxy-defaults"
Name = "global"
Config {
  sallyport_uid = "sallyport-envoy"
}
