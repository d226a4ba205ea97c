# What all of Consul's agents are told.
default_intention_policy = "deny"
disable_update_check     = true
