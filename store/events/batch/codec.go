package batch

func (b *Batch) events(yield func(*Event, error) bool)   {}
func (b *Batch) rollUps(yield func(*RollUp, error) bool) {}
