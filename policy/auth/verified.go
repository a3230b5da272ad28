package auth

// Verified is a credential that was found genuine. It is opaque to caches.
type Verified struct {
	size int // bytes, about
}
