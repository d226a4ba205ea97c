package ca

import "context"

func (c *CA) beginUpstream(rotation) error                       { return nil }
func (c *CA) watchUpstreams(context.Context) func()              { return func() {} }
func (c *CA) upstreamSuccessor(record) (succession, bool, error) { return succession{}, false, nil }
func (c *CA) listed(record, anchor) bool                         { return false }
func (c *CA) follow(context.Context, any) error                  { return nil }
