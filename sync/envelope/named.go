package envelope

// Named returns the keys that the signatures of m name, in their order. It is what the
// message claims; only [Message.Verify] tells who has signed.
func (m *Message) Named() []KeyID {
	var ids []KeyID
	for _, s := range m.signatures {
		if len(s.kid) == len(KeyID{}) {
			ids = append(ids, KeyID(s.kid))
		}
	}
	return ids
}
