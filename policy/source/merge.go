package source

// Merge returns base with over laid upon it: mappings are merged key by key, a null takes
// its key away, and everything else replaces what is below (as RFC 7396 does). Neither
// tree is changed; what comes from over keeps its place in that file. A nil over is base.
func Merge(base, over *Node) *Node {
	if over == nil {
		return base
	}
	if over.Kind != Map {
		return over
	}
	n := &Node{Kind: Map, Pos: over.Pos}
	if base != nil && base.Kind == Map {
		n.Pos = base.Pos
		n.Keys = make([]Key, 0, len(base.Keys)+len(over.Keys))
		for _, k := range base.Keys {
			if o := over.Lookup(k.Name); o == nil {
				n.Keys = append(n.Keys, k)
			} else if o.Value != nil && o.Value.Kind != Null {
				n.Keys = append(n.Keys, Key{k.Name, k.Pos, Merge(k.Value, o.Value)})
			}
		}
	}
	for _, k := range over.Keys {
		if (base == nil || base.Kind != Map || base.Lookup(k.Name) == nil) && k.Value != nil && k.Value.Kind != Null {
			n.Keys = append(n.Keys, Key{k.Name, k.Pos, Merge(nil, k.Value)})
		}
	}
	n.buildIndex()
	return n
}
