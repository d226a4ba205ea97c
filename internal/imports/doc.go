// Package imports holds no code: its test compares what the packages of the project import with the
// rules in docs/design.md.
package imports
