package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/definition"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// subcommand takes no arguments: one is the name of a command that there is not.
func subcommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var known []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			known = append(known, sub.Name())
		}
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], c.CommandPath())
	switch near := definition.Nearest(args[0], known); {
	case near != "":
		text += fmt.Sprintf(": did you mean `%s %s`?", c.CommandPath(), near)
	case c.HasParent() && len(known) > 0:
		text += ": there is " + strings.Join(known, ", ")
	default:
		text += ": see `" + c.CommandPath() + " --help`"
	}
	return errors.New(text)
}

// mistyped returns an error if args name a command that there is not, or a flag with one dash. Cobra
// would print the help of the group instead of the former if --help is among them, and be content; and
// take the latter for several flags of one letter, or for one and its value.
func mistyped(root *cobra.Command, args []string) error {
	if len(args) > 0 && args[0] == "help" {
		args = args[1:]
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "__") { // cobra's own
		return nil
	}
	root.InitDefaultCompletionCmd(args...)
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if err := oneDash(c, args); err != nil {
		return err
	}
	if !c.HasSubCommands() || len(rest) == 0 || strings.HasPrefix(rest[0], "-") {
		return nil
	}
	return subcommand(c, rest)
}

// oneDash returns an error if args, of a command, have a flag's name after one dash.
func oneDash(c *cobra.Command, args []string) error {
	for _, arg := range args {
		if arg == "--" {
			return nil
		}
		word, single := strings.CutPrefix(arg, "-")
		if word, _, _ = strings.Cut(word, "="); !single || len(word) < 2 || strings.HasPrefix(word, "-") {
			continue
		}
		if c.Flags().Lookup(word) != nil || c.InheritedFlags().Lookup(word) != nil || word == "help" || word == "version" && !c.HasParent() {
			return fmt.Errorf("unknown flag -%s: did you mean --%[1]s?", word)
		}
	}
	return nil
}

// flagError is the error of a flag, with the one that was probably meant, or where they are listed.
func flagError(c *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if wrong, invalid := errors.AsType[*pflag.InvalidValueError](err); invalid && wrong.GetFlag().Value.Type() == "duration" {
		return fmt.Errorf(`--%s: %q is no time: one has a unit, like "10s" or "72h"`, wrong.GetFlag().Name, wrong.GetValue())
	}
	if !ok {
		return fmt.Errorf("%w: see `%s --help`", err, c.CommandPath())
	}
	var known []string
	// A flag of several letters after one dash is told of from the first one on that is none.
	letters, _, _ := strings.Cut(unknown.GetSpecifiedShortnames(), "=")
	words := []string{letters}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		known = append(known, f.Name)
		if f.Shorthand != "" && letters != "" {
			words = append(words, f.Shorthand+letters)
		}
	})
	if letters == "" {
		words = []string{unknown.GetSpecifiedName()}
	}
	for _, word := range words {
		if near := nearestFlag(word, known); near != "" {
			return fmt.Errorf("%w: did you mean --%s?", err, near)
		}
	}
	return fmt.Errorf("%w: see `%s --help`", err, c.CommandPath())
}

// nearestFlag is the flag of known that a word is most likely a misspelling of; empty if none is. One
// letter is the only flag that begins with it.
func nearestFlag(word string, known []string) (near string) {
	word = strings.ReplaceAll(word, "_", "-")
	if len(word) > 1 {
		return definition.Nearest(word, known)
	}
	for _, name := range known {
		if strings.HasPrefix(name, word) {
			if near != "" {
				return ""
			}
			near = name
		}
	}
	return near
}
