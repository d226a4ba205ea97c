// Package definition is the one reader of what Consul's users write: the opaque maps that are
// called config, config entries, exposed paths and intentions, whether they come from a file or out
// of Consul's API. Keys, their types, bounds and defaults, and which of several values counts, are
// said here and nowhere else.
//
// A Decoder reads a tree of Nodes. That of a file is strict: whatever is not understood is a
// mistake, which the file is refused for. That of an answer of Consul is lenient: what is not
// understood counts as not set, and is reported.
package definition
