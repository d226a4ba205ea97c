// Package netns says which network namespace a process is in: those of one namespace share ports. It
// is empty where the system does not tell.
package netns
