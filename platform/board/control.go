package board

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// ControlSocket is where the first process takes requests of the gateway: one connection for
// each, a line of JSON, for an installation the two files behind it, and a line in answer.
const ControlSocket = "/run/system.sock"

// controlPatience is how long an installation may take; a card of the slow kind writes 1 MB/s.
const controlPatience = 15 * time.Minute

const maxRequest = 4096 // bytes of the line of a request

// A controlRequest is what the gateway wants.
type controlRequest struct {
	Verb   string            `json:"verb"` // state, install, try, hold, keep, give-up
	Slot   string            `json:"slot,omitempty"`
	Tries  int               `json:"tries,omitempty"`
	About  map[string]string `json:"about,omitempty"`
	Root   int64             `json:"root,omitempty"` // bytes
	Kernel int64             `json:"kernel,omitempty"`
}

// A Control is the state of the machine's systems as the first process tells it.
type Control struct {
	Board   string `json:"board,omitempty"`
	Running string `json:"running,omitempty"`
	Good    string `json:"good,omitempty"`
	Next    string `json:"next,omitempty"`
	Back    string `json:"back,omitempty"`
	Slot    string `json:"slot,omitempty"` // of an installation
	Error   string `json:"error,omitempty"`
}

// A Client asks the first process. Its methods are safe to call together.
type Client struct{ Socket string }

// State returns what runs, what is good, what starts next and what was given up.
func (c Client) State(ctx context.Context) (Control, error) {
	return c.ask(ctx, controlRequest{Verb: "state"})
}

// Install has a system written to the slot that is not in use, and returns the slot. root and
// kernel are called in this order.
func (c Client) Install(ctx context.Context, about map[string]string, rootSize, kernelSize int64, root, kernel func() (io.Reader, error)) (string, error) {
	a, err := c.ask(ctx, controlRequest{Verb: "install", About: about, Root: rootSize, Kernel: kernelSize}, root, kernel)
	return a.Slot, err
}

// Decide makes a decision on a slot: try (with a number of tries), hold, keep, give-up.
func (c Client) Decide(ctx context.Context, verb, slot string, tries int) error {
	_, err := c.ask(ctx, controlRequest{Verb: verb, Slot: slot, Tries: tries})
	return err
}

func (c Client) ask(ctx context.Context, r controlRequest, files ...func() (io.Reader, error)) (a Control, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return a, err
	}
	for _, open := range files {
		in, err := open()
		if err != nil {
			return a, err
		}
		if _, err := io.Copy(conn, in); err != nil {
			// What the other side says of it is worth more than that it hung up.
			if e := json.NewDecoder(conn).Decode(&a); e == nil && a.Error != "" {
				return a, errors.New(a.Error)
			}
			return a, err
		}
	}
	if err := json.NewDecoder(io.LimitReader(conn, maxRequest)).Decode(&a); err != nil {
		return a, fmt.Errorf("answer of the first process: %w", errors.Join(err, ctx.Err()))
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// ServeControl answers requests on l until it is closed. again is called once a decision wants
// the machine to start anew.
func (s *Systems) ServeControl(l net.Listener, again func()) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		s.serve(conn, again)
	}
}

// serve answers one request. One is answered at a time: all of them are about the one disk.
func (s *Systems) serve(conn net.Conn, again func()) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(controlPatience))
	in := bufio.NewReaderSize(conn, maxRequest)
	var a Control
	line, err := in.ReadSlice('\n')
	var r controlRequest
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	start := false
	if err == nil {
		start, err = s.obey(r, in, &a)
	}
	if err != nil {
		a.Error = err.Error()
	}
	_ = json.NewEncoder(conn).Encode(a)
	if start {
		again()
	}
}

func (s *Systems) obey(r controlRequest, in io.Reader, a *Control) (again bool, err error) {
	switch r.Verb {
	case "state":
		return false, s.tell(a)
	case "install":
		a.Slot, err = s.Install(r.About, Part{r.Root, in}, Part{r.Kernel, in})
	case "try":
		err = s.Try(r.Slot, r.Tries)
		again = err == nil
	case "hold":
		s.Hold()
	case "keep":
		if r.Slot != s.Running {
			return false, fmt.Errorf("keep slot %q, and %q runs", r.Slot, s.Running)
		}
		err = s.Keep()
	case "give-up":
		again, err = s.GiveUp(r.Slot)
	default:
		err = fmt.Errorf("unknown request %q", r.Verb)
	}
	return again, err
}

func (s *Systems) tell(a *Control) error {
	b, err := s.State()
	if err != nil {
		return err
	}
	own, err := ReadSlot(s.Disk, s.Running)
	a.Board, a.Running, a.Good, a.Next, a.Back = own.About["BOARD"], s.Running, b.Good, b.Slot, b.Back
	return err
}
