package appliance

import (
	"context"
	"tidegate/platform/board"
	"tidegate/sync/intake"
)

// A System is the machine of a flash image, whose first process replaces its system.
type System struct {
	first board.Client
	board string // hardware class of system bundles for it
	err   error  // why it cannot be asked
}

// OpenSystem asks the first process, at its socket, what machine this is; nil for no socket.
func OpenSystem(ctx context.Context, socket string) *System {
	if socket == "" {
		return nil
	}
	s := &System{first: board.Client{Socket: socket}}
	state, err := s.first.State(ctx)
	s.board, s.err = "board-"+state.Board, err
	return s
}

// Boot returns which slot is what.
func (s *System) Boot(ctx context.Context) (intake.Boot, error) {
	c, err := s.first.State(ctx)
	return intake.Boot{Running: c.Running, Good: c.Good, Next: c.Next, Back: c.Back}, err
}

// Install has a system written to the slot that is not in use.
func (s *System) Install(ctx context.Context, i intake.SystemImage) (string, error) {
	return s.first.Install(ctx, i.About, i.Root.Size, i.Kernel.Size, i.Root.Open, i.Kernel.Open)
}

// Decide hands a decision on.
func (s *System) Decide(ctx context.Context, c intake.Choice) error {
	return s.first.Decide(ctx, c.Verb, c.Place, c.Tries)
}
