package main

import "context"

func partGrowth(context.Context, *world) error { return nil }
func partSoak(context.Context, *world) error   { return nil }
