// Command tideinit is the first process of the flash image: it looks after the machine so
// that tidegate can serve. What it does is in package board.
package main

import (
	"fmt"
	"os"
	"tidegate/platform/board"
)

func main() {
	if err := board.Run(board.Default()); err != nil {
		fmt.Fprintln(os.Stderr, "tideinit:", err)
		os.Exit(1)
	}
}
