# The server: intentions and the CA. Its API is open to who reaches it; with ACLs on, it would ask for a token.
node_name        = "server"
server           = true
bootstrap_expect = 1
client_addr      = "0.0.0.0"
ui_config { enabled = true }
performance { raft_multiplier = 1 }

# These are written once, when the server starts for the first time. Later ones: `consul config write`, the API or the UI.
config_entries {
  bootstrap = [
    {
      Kind     = "service-defaults"
      Name     = "api"
      Protocol = "http"
    },
    {
      Kind    = "service-intentions"
      Name    = "api"
      Sources = [{ Name = "web", Action = "allow" }]
    },
    {
      Kind    = "service-intentions"
      Name    = "db"
      Sources = [{ Name = "api", Action = "allow" }]
    },
  ]
}
