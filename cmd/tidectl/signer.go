package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os/exec"
	"strings"
	"tidegate/cmd/cli"
	"tidegate/policy/refusal"
	"tidegate/sync/envelope"
	"tidegate/sync/keyfile"
)

// execSigner is a key that another program holds: a hardware token, an HSM. The program is
// called with "public" and prints one line "ed25519 HEX [NAME]"; called with "sign" it reads
// the bytes to be signed on standard input and prints 64 bytes in hex.
type execSigner struct {
	a      *app
	words  []string
	public envelope.PublicKey
}

// execSigner starts the program once, for its public key. The value is "exec:COMMAND WORDS…";
// no shell reads it.
func (a *app) execSigner(value string) (*execSigner, error) {
	command, ok := strings.CutPrefix(value, "exec:")
	words := strings.Fields(command)
	if !ok || len(words) == 0 {
		return nil, cli.Usage("--signer %q: want exec:COMMAND", value)
	}
	s := &execSigner{a: a, words: words}
	out, err := s.call(nil, "public")
	if err != nil {
		return nil, err
	}
	p, err := keyfile.ParsePublic(out)
	if err != nil {
		return nil, refusal.About(words[0], err)
	}
	s.public = p.Key
	return s, nil
}

func (s *execSigner) call(in []byte, verb string) ([]byte, error) {
	c := exec.Command(s.words[0], append(s.words[1:len(s.words):len(s.words)], verb)...)
	c.Stdin = bytes.NewReader(in)
	c.Stderr = s.a.Err
	out, err := c.Output()
	if err != nil {
		return nil, refusal.New(refusal.Key, "signer %s %s: %w", s.words[0], verb, err)
	}
	return out, nil
}

// Public implements envelope.Signer.
func (s *execSigner) Public() envelope.PublicKey { return s.public }

// Sign implements envelope.Signer.
func (s *execSigner) Sign(tbs []byte) ([]byte, error) {
	out, err := s.call(tbs, "sign")
	if err != nil {
		return nil, err
	}
	sig, err := hex.DecodeString(strings.TrimSpace(string(out)))
	if err != nil || len(sig) != 64 {
		return nil, refusal.New(refusal.Key, "signer %s: answered %d bytes that are no signature in hex", s.words[0], len(out))
	}
	return sig, nil
}

// String names the program.
func (s *execSigner) String() string { return fmt.Sprintf("exec:%s", strings.Join(s.words, " ")) }
