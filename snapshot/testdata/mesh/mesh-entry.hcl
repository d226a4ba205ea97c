Kind = "mesh"
TLS {
  Incoming {
    TLSMinVersion = "TLSv1_2"
  }
  Outgoing {
    TLSMinVersion = "TLSv1_2"
  }
}
HTTP {
  SanitizeXForwardedClientCert = true
}
