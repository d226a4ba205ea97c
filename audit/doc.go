// Package audit says in the log who may do what since when: a line for each destination of which
// other intentions hold, and for each registration that came, changed or went, with the number of
// the change. Who writes lines of other kinds, such as of certificates or of what an operator asked
// for, gives them the key "audit" too; Bound bounds how many of a kind there are.
package audit
