package main

// rootsAndContent are the checks of roots, time, recipients and content, C to F. A case in
// which something is taken is shown by a rule that is too strict.
var rootsAndContent = []mutation{
	// The newest root decides, not the pinned one.
	{"C1", "sync/trust/chain.go", "old := s.keys[RoleRoot]", "pin, _ := openRoot(s.roots[0])\n\told, _ := pin.Keys(RoleRoot)", "./sync/trust C1ToC15/R1_"},
	{"C5", "sync/trust/chain.go", "old := s.keys[RoleRoot]", "pin, _ := openRoot(s.roots[0])\n\told, _ := pin.Keys(RoleRoot)", "./sync/trust C1ToC15/R5_"},
	{"C6", "sync/trust/chain.go", "old := s.keys[RoleRoot]", "pin, _ := openRoot(s.roots[0])\n\told, _ := pin.Keys(RoleRoot)", "./sync/trust C1ToC15/R6_"},
	{"C8", "sync/trust/chain.go", "old := s.keys[RoleRoot]", "pin, _ := openRoot(s.roots[0])\n\told, _ := pin.Keys(RoleRoot)", "./sync/trust C1ToC15/R8_"},
	// Signatures that do not count are no reason to refuse.
	{"C2", "sync/trust/chain.go", "if !byOld.Met() {", "if !byOld.Met() || len(byOld.Ignored) > 1 {", "./sync/trust C1ToC15/R2_"},
	// Any of the keys will do, not only those that signed last time.
	{"C3", "sync/trust/chain.go", "if !byOld.Met() {", "if last, err := envelope.Parse(s.roots[len(s.roots)-1], envelope.Root); err != nil || !byOld.Met() || !slices.Equal(last.Count(old).Signers, byOld.Signers) {", "./sync/trust C1ToC15/R3_"},
	// One signature counts for the old root and for the new one.
	{"C4", "sync/trust/chain.go", "byNew := m.Count(own)", "byNew := m.Count(own)\n\tbyNew.Signers = slices.DeleteFunc(byNew.Signers, func(k envelope.PublicKey) bool { return slices.Contains(byOld.Signers, k) })", "./sync/trust C1ToC15/R4_"},
	{"C9", "sync/trust/chain.go", "byNew := m.Count(own)", "byNew := m.Count(own)\n\tbyNew.Signers = slices.DeleteFunc(byNew.Signers, func(k envelope.PublicKey) bool { return slices.Contains(byOld.Signers, k) })", "./sync/trust C1ToC15/R9_"},
	{"C7", "sync/trust/chain.go", "if !byNew.Met() {", "if !byNew.Met() || byNew.Threshold > byOld.Threshold {", "./sync/trust C1ToC15/R7_"},
	// One short, or a threshold of the other root.
	{"C12", "sync/trust/chain.go", "if !byNew.Met() {", "if len(byNew.Signers)+1 < byNew.Threshold {", "./sync/trust C1ToC15/R12_"},
	{"C13", "sync/trust/chain.go", "if !byOld.Met() {", "if len(byOld.Signers)+1 < byOld.Threshold {", "./sync/trust C1ToC15/R13_"},
	{"C14", "sync/trust/chain.go", "if !byNew.Met() {", "if len(byNew.Signers) < byOld.Threshold {", "./sync/trust C1ToC15/R14_"},
	{"C15", "sync/trust/chain.go", "if !byOld.Met() {", "if len(byOld.Signers) < 1 {", "./sync/trust C1ToC15/R15_"},
	{"C17", "sync/trust/chain.go", "if next.generation == s.generation {", "if len(next.RootExpiry(floor)) > 0 {\n\t\t\treturn s, warnings, refusal.New(refusal.Expired, \"root\")\n\t\t}\n\t\tif next.generation == s.generation {", "./sync/trust C17"},
	{"C17", "sync/trust/chain.go", "s.root.Expires >= floor {", "s.root.Expires > 0 {", "./sync/trust C17"},
	{"C17", "sync/trust/chain.go", "s.root.Expires >= floor {", "s.root.Expires > 0 {", "./sync/intake C16C17"},
	{"C20", "sync/trust/chain.go", "if err := keep(next); err != nil {\n\t\t\treturn s,", "if err := keep(next); err != nil {\n\t\t\treturn next,", "./sync/trust C20"},
	{"C20", "sync/trust/chain.go", "if err := keep(next); err != nil {", "if err := keep(next); err != nil && i == 0 {", "./sync/trust C20"},
	{"C20", "sync/intake/memory.go", "rootsChanged := next.state.Chain() != old.state.Chain()", "rootsChanged := len(old.state.Roots()) == 0", "./sync/intake C20"},
	{"C22", "sync/trust/state.go", "keys, ok := s.keys[role]\n", "pin, _ := openRoot(s.roots[0])\n\tkeys, ok := pin.Keys(role)\n", "./sync/trust B12B14"},
	{"C22", "sync/trust/state.go", "keys, ok := s.keys[role]\n", "pin, _ := openRoot(s.roots[0])\n\tkeys, ok := pin.Keys(role)\n", "./sync/intake C16C17"},

	// A bundle is named by all that is signed, not by its content.
	{"D9", "sync/bundle/manifest.go", "m.digest = sha256.Sum256(payload)", "content, _ := canon.Marshal(m.Files)\n\tm.digest = sha256.Sum256(content)", "./sync/intake D1ToD10"},
	{"D9", "sync/trust/judge.go", "if sameEpoch && o.Seq < confirmed.Seq {", "if sameEpoch && o.Seq <= confirmed.Seq+1 {", "./sync/trust D1ToD9/D9"},
	{"D11", "sync/trust/judge.go", "case o.Expires < at.Floor:", "case o.Expires < max(at.Floor, at.Wall):", "./sync/trust D10D11"},
	{"D11", "sync/trust/judge.go", "case o.Expires < at.Floor:", "case o.Expires < max(at.Floor, at.Wall):", "./sync/intake D9D11"},
	{"D11", "sync/trust/judge.go", "if at.Wall != 0 && at.Wall < at.Floor {", "if false {", "./sync/trust D10D11"},
	{"D15", "sync/intake/resume.go", "return d.commit(\"time\", next, d.entry(", "if m := d.manifest(bundle.Digest(next.ptr.Active)); m != nil && m.Expires != 0 && m.Expires < next.state.Floor().Unix {\n\t\td.serve(nil, nil)\n\t}\n\treturn d.commit(\"time\", next, d.entry(", "./sync/intake D15D16"},
	{"D16", "sync/intake/resume.go", "e, m, err := d.load(ctx, active)\n", "e, m, err := d.load(ctx, active)\n\tif err == nil && m.Expires != 0 && m.Expires < d.Floor().Unix {\n\t\terr = refusal.New(refusal.Expired, \"stored\")\n\t}\n", "./sync/intake D15D16"},
	{"D16", "sync/trust/state.go", "return s.Built(build), nil\n", "if w := s.RootExpiry(s.Floor().Unix); len(w) > 0 {\n\t\treturn State{}, unreadable(w[0])\n\t}\n\treturn s.Built(build), nil\n", "./sync/trust D16"},
	{"D18", "sync/trust/state.go", "if s.Chain() != w.Chain {", "if false {", "./sync/trust D18"},
	{"D18", "sync/intake/memory.go", "\t\td.lock()\n", "", "./sync/intake D18"},
	{"D18", "sync/intake/resume.go", "if d.locked() != nil && len(ptr.Pinned()) == 0 {", "if false {", "./sync/intake D18"},

	{"E2", "sync/bundle/rules.go", "if len(m.Selectors) == 0 || len(m.Selectors) > maxNames {", "if len(m.Selectors) > maxNames {", "./sync/bundle TheRules/E2"},
	{"E2", "sync/trust/judge.go", "return refusal.New(refusal.Target, \"devices: for", "if len(o.Selectors) == 0 {\n\t\treturn nil\n\t}\n\treturn refusal.New(refusal.Target, \"devices: for", "./sync/trust E1E3E7"},
	// A device without an enrolment has no labels, and nobody asks another source.
	{"E3", "sync/trust/judge.go", "if !slices.Contains(d.Labels, l) {", "if len(d.Labels) > 0 && !slices.Contains(d.Labels, l) {", "./sync/intake E1E3E7"},
	{"E3", "sync/trust/judge.go", "if !slices.Contains(d.Labels, l) {", "if false && !slices.Contains(d.Labels, l) {", "./sync/trust E1E3E7"},
	{"E9", "sync/bundle/rules.go", "if i > 0 && compareEncoded(m.Selectors[i-1], s) >= 0 {", "if i > 0 && compareEncoded(m.Selectors[i-1], s) > 0 {", "./sync/bundle TheRules/E9"},

	{"F3", "sync/bundle/frame.go", "case size != f.size:", "case false:", "./sync/bundle F3F5F6/size"},
	{"F3", "sync/bundle/reader.go", "case r.n > r.f.Size:", "case false:", "./sync/bundle F3"},
	{"F3", "sync/bundle/reader.go", "\t\tp = p[:room]\n", "\t\t_ = room\n", "./sync/bundle F3"},
	{"F5", "sync/bundle/frame.go", "if walk := f.walk(p[:n]); walk != nil {", "if walk := f.walk(p[:n]); walk != nil && false {", "./sync/bundle F3F5F6"},
	{"F5", "sync/bundle/reader.go", "r.err = codecError(r.f, err)", "r.err = io.EOF", "./sync/bundle F3F5F6/bad_checksum"},
	{"F5", "sync/bundle/reader.go", "r.err = codecError(r.f, err)", "r.err = io.EOF", "./sync/intake F5F6"},
	{"F6", "sync/bundle/reader.go", "if !bytes.Equal(r.sum.Sum(nil), r.f.Digest[:]) {", "if false && !bytes.Equal(r.sum.Sum(nil), r.f.Digest[:]) {", "./sync/bundle F3F5F6/plain"},
	{"F5 F6", "sync/intake/content.go", "case refusal.Compile, refusal.Codec, refusal.Digest,", "case refusal.Compile,", "./sync/intake F5F6"},
	{"F9", "sync/bundle/write/write.go", "at != next {", "at != next && next < 0 {", "./sync/bundle F9"},
	{"F9", "sync/bundle/rules.go", "if at, ok := m.first[c.Digest]; ok {", "if at, ok := m.first[c.Digest]; ok && false {", "./sync/bundle F9"},
	{"F10", "sync/bundle/rules.go", "c.Size > ChunkBytes ||", "c.Size >= ChunkBytes ||", "./sync/bundle F10"},
	{"F10", "sync/bundle/rules.go", "if stored != f.Size {", "if stored == 0 || stored != f.Size {", "./sync/bundle F10"},
	{"F10", "sync/bundle/rules.go", "|| !last && c.Size != ChunkBytes {", "|| !last {", "./sync/bundle F10"},
	// The content is never held as a whole.
	{"F12", "sync/intake/offer.go", "return h.Chunks(j.m, func(i int, data []byte) error {", "var all [][]byte\n\treturn h.Chunks(j.m, func(i int, data []byte) error {\n\t\tall = append(all, bytes.Clone(data))", "./sync/intake F12"},
}
