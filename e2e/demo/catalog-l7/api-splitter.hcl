# How many of a hundred requests go to each version. Change the weights and save: it counts within a second.
Kind = "service-splitter"
Name = "api"
Splits = [
  {
    Weight        = 99
    ServiceSubset = "v1"
  },
  {
    Weight        = 1
    ServiceSubset = "v2"
  },
]
