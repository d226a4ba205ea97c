Kind = "proxy-defaults"
Name = "global"
Config { access_logs = "failures" }
AccessLogs {
  Enabled    = true
  Type       = "file"
  Path       = "/dev/null"
  TextFormat = "%START_TIME% %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %DOWNSTREAM_PEER_URI_SAN%"
}
