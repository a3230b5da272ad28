package intake

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle/bundletest"
	"tidegate/sync/bundle/write"
	"tidegate/sync/trust"
)

// pieces is a bundle of four chunks and what a transfer needs of it.
func pieces(t testing.TB, w *world, seq uint64) (file, head []byte, chunks [][]byte) {
	t.Helper()
	file = w.bundle(seq, func(s *write.Spec) { s.Files = append(s.Files, write.Bytes("zz", noise(1<<20+50_000))) })
	h, _ := bundletest.Open(t, file)
	return file, h.Bytes, bundletest.Chunks(t, file)
}

func (w *world) begin(head []byte) *Transfer {
	w.t.Helper()
	tr, r, err := w.desk.Begin(w.t.Context(), "mqtt", "announced", head, false)
	if err != nil || tr == nil {
		w.t.Fatalf("begin: %+v, %v", r, err)
	}
	return tr
}

func missing(t testing.TB, tr *Transfer) []int {
	t.Helper()
	m, err := tr.Missing()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestH1PiecesShuffledAndDoubled(t *testing.T) {
	w := settled(t)
	_, head, chunks := pieces(t, w, 6)
	tr := w.begin(head)
	type piece struct{ chunk, from, to int }
	var all []piece
	for _, i := range missing(t, tr) { // the shared file came from a slot
		for from := 0; from < len(chunks[i]); from += 16 << 10 {
			all = append(all, piece{i, from, min(from+16<<10, len(chunks[i]))})
		}
	}
	if n := len(missing(t, tr)); n != len(chunks)-1 {
		t.Errorf("%d of %d chunks are wanted; the file that did not change is in a slot", n, len(chunks))
	}
	all = append(all, all...)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, p := range all {
		if _, err := tr.PutPiece(p.chunk, p.from, chunks[p.chunk][p.from:p.to]); err != nil {
			t.Fatal(err)
		}
	}
	r, err := tr.Finish(t.Context())
	if err != nil || r.Phase != OnTrial {
		t.Fatalf("finish: %+v, %v", r, err)
	}
	w.wantServes(6)
	if _, err := tr.Missing(); err == nil {
		t.Error("a transfer that is over still answers")
	}
}

func TestH3H6H7BadPieces(t *testing.T) {
	w := settled(t)
	_, head, chunks := pieces(t, w, 6)
	tr := w.begin(head)
	for _, p := range [][2]int{{len(chunks), 0}, {-1, 0}, {0, len(chunks[0])}} {
		if _, err := tr.PutPiece(p[0], p[1], []byte{1}); !refusal.Is(err, refusal.Format) {
			t.Errorf("piece %v: %v", p, err)
		}
	}
	want := missing(t, tr)
	i := want[0]
	if _, err := tr.PutPiece(i, 0, make([]byte, len(chunks[i]))); !refusal.Is(err, refusal.Digest) {
		t.Errorf("a wrong chunk: %v", err)
	}
	if err := tr.Put(i, chunks[want[1]]); !refusal.Is(err, refusal.Digest) {
		t.Errorf("another chunk: %v", err)
	}
	if got := missing(t, tr); len(got) != len(want) {
		t.Errorf("wanted are %v, before %v", got, want)
	}
	before := w.picture()
	r := tr.Refuse(t.Context(), refusal.New(refusal.Digest, "chunk %d came wrong three times", i))
	if r.Word != refusal.Digest || r.Phase != Rejected {
		t.Errorf("report %+v", r)
	}
	after := w.picture()
	if after.entries != before.entries+1 || len(after.staging) != 0 {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	w.wantServes(5)
}

func TestH2TheLastChunkNeverComes(t *testing.T) {
	w := settled(t)
	_, head, chunks := pieces(t, w, 6)
	tr := w.begin(head)
	for _, i := range missing(t, tr)[1:] {
		if err := tr.Put(i, chunks[i]); err != nil {
			t.Fatal(err)
		}
	}
	left := missing(t, tr)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	w.restart() // H8: a cut in the transfer
	w.wantServes(5)
	tr = w.begin(head)
	if got := missing(t, tr); len(got) != 1 || got[0] != left[0] {
		t.Errorf("wanted are %v, want %v", got, left)
	}
	r, err := tr.Finish(t.Context())
	w.mustBe(r, err, refusal.Truncated)
	if n := names(t, filepath.Join(w.dir, "staging")); len(n) != 0 {
		t.Errorf("staging holds %v", n)
	}
}

func TestHalfABundleByStickAndHalfByNetwork(t *testing.T) {
	w := settled(t)
	file, head, chunks := pieces(t, w, 6)
	tr := w.begin(head)
	i := missing(t, tr)[0]
	if err := tr.Put(i, chunks[i]); err != nil {
		t.Fatal(err)
	}
	// A stick with the beginning of the bundle is pulled; what it brought is not lost to a
	// sound one, and the transfer is told to begin again.
	r, err := w.offer(file[:len(file)-1])
	w.mustBe(r, err, refusal.Truncated)
	if _, err := tr.Missing(); !refusal.Is(err, refusal.Busy) {
		t.Errorf("the transfer goes on: %v", err)
	}
	if err := tr.Put(i, chunks[i]); !refusal.Is(err, refusal.Busy) {
		t.Errorf("the transfer takes chunks: %v", err)
	}
	if _, err := tr.Finish(t.Context()); !refusal.Is(err, refusal.Busy) {
		t.Errorf("the transfer ends: %v", err)
	}
	tr = w.begin(head)
	for _, i := range missing(t, tr) {
		if err := tr.Put(i, chunks[i]); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := tr.Finish(t.Context()); err != nil || r.Phase != OnTrial {
		t.Fatalf("finish: %+v, %v", r, err)
	}
}

func TestAnotherBundleLeavesWhatATransferHasBrought(t *testing.T) {
	w := settled(t)
	_, head, chunks := pieces(t, w, 8)
	tr := w.begin(head)
	for _, i := range missing(t, tr)[1:] {
		must(t, tr.Put(i, chunks[i]))
	}
	if _, err := w.desk.Plan(t.Context(), candidate(w.bundle(7, nil))); err != nil {
		t.Fatal(err)
	}
	w.confirm(w.bundle(7, nil))
	tr = w.begin(head)
	if n := len(missing(t, tr)); n != 1 {
		t.Errorf("%d chunks are wanted, want the one that was missing", n)
	}
	must(t, tr.Close())
	w.desk.dropCache()
	if left := names(t, filepath.Join(w.dir, "staging")); len(left) != 0 {
		t.Errorf("staging holds %v", left)
	}
}

// The same metadata with another signature on it is the same bundle: its chunks count.
func TestATransferGoesOnUnderAnotherHead(t *testing.T) {
	w := settled(t)
	file, head, chunks := pieces(t, w, 6)
	tr := w.begin(head)
	for _, i := range missing(t, tr)[1:] {
		if err := tr.Put(i, chunks[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	var more bytes.Buffer
	if _, err := write.Sign(&more, bytes.NewReader(file), trust.Digest{}, bundletest.Key(12)); err != nil {
		t.Fatal(err)
	}
	h, _ := bundletest.Open(t, more.Bytes())
	tr = w.begin(h.Bytes)
	if n := len(missing(t, tr)); n != 1 {
		t.Errorf("%d chunks are wanted", n)
	}
	for _, i := range missing(t, tr) {
		if err := tr.Put(i, chunks[i]); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := tr.Finish(t.Context()); err != nil || r.Phase != OnTrial {
		t.Fatalf("finish: %+v, %v", r, err)
	}
}

func TestH9BeginRefusesWhatOfferRefuses(t *testing.T) {
	w := settled(t)
	begin := func(head []byte) (Report, error) {
		before := w.picture()
		tr, r, err := w.desk.Begin(t.Context(), "mqtt", "x", head, false)
		if tr != nil {
			t.Error("a transfer")
		}
		if after := w.picture(); err != nil && (after.entries != before.entries+1 || after.serves != before.serves) {
			t.Errorf("before %+v\nafter  %+v", before, after)
		}
		return r, err
	}
	head := func(file []byte) []byte { h, _ := bundletest.Open(t, file); return h.Bytes }
	r, err := begin(head(w.bundle(6, func(s *write.Spec) { s.Manifest.Product = "pump" })))
	w.mustBe(r, err, refusal.Target)
	r, err = begin(head(w.bundle(4, nil)))
	w.mustBe(r, err, refusal.Rollback)
	r, err = begin(append(head(w.bundle(6, nil)), 1))
	w.mustBe(r, err, refusal.Trailing)
	r, err = begin(head(w.bundle(6, nil))[:50])
	w.mustBe(r, err, refusal.Truncated)
	if r, err := begin(head(w.bundle(5, nil))); err != nil || !r.Already || r.Phase != Confirmed {
		t.Errorf("what serves: %+v, %v", r, err)
	}
	w.put(w.bundle(6, nil))
	if r, err := begin(head(w.bundle(6, nil))); err != nil || !r.Already || r.Phase != OnTrial {
		t.Errorf("what is on trial: %+v, %v", r, err)
	}
	r, err = begin(head(w.bundle(7, nil)))
	w.mustBe(r, err, refusal.Busy)
}

func TestARootThatComesDuringATransferCounts(t *testing.T) {
	w := settled(t)
	file, head, chunks := pieces(t, w, 6)
	tr := w.begin(head)
	for _, i := range missing(t, tr) {
		if err := tr.Put(i, chunks[i]); err != nil {
			t.Fatal(err)
		}
	}
	w.fleet.Rotate(t, func(r *trust.Root) { r.Revoked = []trust.Digest{digestOf(t, file)} })
	if err := w.desk.addRoot("test", w.fleet.Roots[1]); err != nil {
		t.Fatal(err)
	}
	r, err := tr.Finish(t.Context())
	w.mustBe(r, err, refusal.Revoked)
	if n := names(t, filepath.Join(w.dir, "staging")); len(n) != 0 {
		t.Errorf("staging holds %v", n)
	}
}

func TestWatchersHearEveryOutcome(t *testing.T) {
	w := settled(t)
	reports, stop := w.desk.Watch()
	defer stop()
	w.put(w.bundle(6, nil))
	if _, err := w.desk.Confirm(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	_, err := w.offer(w.bundle(4, nil))
	if err == nil {
		t.Fatal(errors.New("an old bundle was accepted"))
	}
	for _, want := range []Phase{OnTrial, Confirmed, Rejected} {
		if r := <-reports; r.Phase != want {
			t.Errorf("phase %v, want %v", r.Phase, want)
		}
	}
	for range 40 { // a reader that does not read holds up nobody, and hears the newest
		w.desk.tell(Report{Phase: Staged})
	}
	w.desk.tell(Report{Phase: Compiled})
	var last Report
	for len(reports) > 0 {
		last = <-reports
	}
	if last.Phase != Compiled {
		t.Errorf("the newest that was heard is %v", last.Phase)
	}
}
