package definition

// DurationOf is what a node that is a time says.
var DurationOf = (*Node).duration
