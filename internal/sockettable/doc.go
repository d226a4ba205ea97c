// Package sockettable says who has a port or a Unix socket of this machine, for people who are told
// that it is in use. It sees the network namespace of this process alone.
package sockettable
