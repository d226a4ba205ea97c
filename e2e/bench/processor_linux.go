package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// onOneProcessor has this process and others run on one processor until back is called. Where two share the work of one connection, by far
// the most of an answer's time may be that the other one is woken, in one run and not in the next.
func onOneProcessor(others ...*process) (back func() error, err error) {
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, err
	}
	for cpu := range len(all) * 64 {
		if all.IsSet(cpu) {
			one.Zero()
			one.Set(cpu) // the last one: the first has most of the interrupts
		}
	}
	set := func(to *unix.CPUSet) error {
		for _, pid := range append([]int{os.Getpid()}, pids(others)...) {
			for range 2 { // a thread that is made meanwhile may be its maker's of before
				if err := affine(pid, to); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return func() error { return set(&all) }, set(&one)
}

func pids(all []*process) (out []int) {
	for _, p := range all {
		out = append(out, p.PID())
	}
	return out
}

// affine sets the processors of all threads of a process.
func affine(pid int, to *unix.CPUSet) error {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, to); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("processors of thread %d: %w", tid, err)
		}
	}
	return nil
}
