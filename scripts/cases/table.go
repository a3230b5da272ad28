// Package cases keeps the list of attacks and accidents that a device must withstand, and the
// test that each of them is shown by tests of this repository. The list is docs/attack-cases.md,
// which the test writes.
package cases

// A Case is one row. Ids are stable names and need not be without gaps.
type Case struct {
	ID     string
	What   string
	Expect string // how it must end; † at its start: it is taken
	// Also names tests that show the case and do not bear its id: package and test, or a
	// script and what it runs.
	Also []string
	// Elsewhere says where a case is shown that a Go test of this repository cannot show.
	Elsewhere string
}

// The groups of cases, by the letter of their ids.
var groups = []struct{ letter, name string }{
	{"A", "Form"},
	{"B", "Signatures"},
	{"C", "Trust roots"},
	{"D", "Counters and time"},
	{"E", "For whom"},
	{"F", "Content"},
	{"G", "Sticks"},
	{"H", "Network"},
	{"I", "Power and disks"},
	{"J", "Trial"},
	{"K", "Secrets, records, tools"},
}

// Cases are the rows, in the order of the document.
var Cases = []Case{
	{ID: "A1", What: "empty, one byte, 1 MiB of noise", Expect: "`E_FORMAT` magic"},
	{ID: "A2", What: "our magic with number 2", Expect: "`E_FORMAT_VERSION`"},
	{ID: "A3", What: "metaset of 2^40 bytes", Expect: "`E_LIMIT`, at most 2 MiB allocated"},
	{ID: "A4", What: "cut at every byte", Expect: "`E_TRUNCATED`, no panic"},
	{ID: "A5", What: "a length that is not the shortest, in the head and inside", Expect: "`E_CBOR_CANON` with the offset"},
	{ID: "A6", What: "keys unsorted, twice, twice by another encoding", Expect: "`E_CBOR_CANON` with the offset"},
	{ID: "A7", What: "indefinite, tag, float, null, undefined, simple(255), bignum, −2^63−1", Expect: "`E_CBOR_CANON`"},
	{ID: "A8", What: "depth 9, 65,537 items", Expect: "`E_LIMIT`"},
	{ID: "A9", What: "unknown field in the manifest; † under 99", Expect: "`E_FORMAT` field"},
	{ID: "A10", What: "path with bad UTF-8, NUL, `..`, absolute, `A` and `a`, 201 bytes", Expect: "`E_FORMAT` path"},
	{ID: "A11", What: "a byte after the last chunk, a second metaset", Expect: "`E_TRAILING`"},
	{ID: "A12", What: "tags 18, 17, none, twice", Expect: "`E_FORMAT` cose"},
	{ID: "A14", What: "unprotected not empty, `crit` known, unknown, empty, x5chain", Expect: "`E_FORMAT` cose"},
	{ID: "A15", What: "0 and 17 signatures", Expect: "`E_SIG_NONE`, `E_LIMIT`"},
	{ID: "A17", What: "payload of a root as manifest", Expect: "`E_FORMAT` type"},
	{ID: "A18", What: "sums that overflow or are not the total; above the quota", Expect: "`E_LIMIT`; `E_NO_SPACE` before the first chunk"},
	{ID: "A19", What: "file above 2 GiB, above 4 GiB", Expect: "`E_LIMIT`, no wrap"},
	{ID: "A20", What: "largest legal: 4,096 files, manifest just under 1 MiB, 16 signatures", Expect: "† taken"},

	{ID: "B1", What: "only signature zeros, empty, 63 or 65 bytes", Expect: "`E_SIG_BAD`"},
	{ID: "B2", What: "each bit flipped in payload, header, signature", Expect: "exit 20 or 30, never taken"},
	{ID: "B3", What: "only unknown keys", Expect: "`E_SIG_THRESHOLD`, lists the key ids"},
	{ID: "B4", What: "threshold and an unknown key", Expect: "† taken"},
	{ID: "B5", What: "threshold and garbage of a known key", Expect: "† taken with `W_SIG_EXTRA_BAD`"},
	{ID: "B7", What: "the same public key twice in a role", Expect: "`E_ROOT`"},
	{ID: "B8", What: "threshold 0, above the keys, negative", Expect: "`E_ROOT`"},
	{ID: "B10", What: "S ≥ L", Expect: "`E_SIG_BAD`"},
	{ID: "B12", What: "another role signs", Expect: "`E_SIG_THRESHOLD`, says why"},
	{ID: "B14", What: "key that a root revoked", Expect: "`E_SIG_THRESHOLD`, says why"},
	{ID: "B15", What: "alg ES256, PS256, −999, text, missing", Expect: "`E_SIG_THRESHOLD`, says why"},
	{ID: "B16", What: "examples of cose-wg that must fail", Expect: "refused"},
	{ID: "B18", What: "the same bytes: go-cose and a verifier in Python", Expect: "agree, or the stricter one is explained", Also: []string{"scripts/verifier.TestBothVerifiersAgree"}},

	{ID: "C1", Expect: "† taken", What: "rotation of one key"},
	{ID: "C2", Expect: "† taken", What: "the same with unused signatures"},
	{ID: "C3", Expect: "† taken", What: "3 of 5, signers change"},
	{ID: "C4", Expect: "† taken", What: "3 of 5, one key rotated"},
	{ID: "C5", Expect: "† taken", What: "the same with a step between"},
	{ID: "C6", Expect: "† taken", What: "all keys rotated with a step between"},
	{ID: "C7", Expect: "† taken", What: "threshold 1 to 2 of 3"},
	{ID: "C8", Expect: "† taken", What: "threshold 2 to 1 of 3"},
	{ID: "C9", Expect: "† taken", What: "1 of 1 to 2 of 2"},
	{ID: "C10", Expect: "`E_ROOT_CHAIN`, the device stays at the version before", What: "not by the old key"},
	{ID: "C11", Expect: "`E_ROOT_CHAIN`, the device stays at the version before", What: "not by the new key"},
	{ID: "C12", Expect: "`E_ROOT_CHAIN`, the device stays at the version before", What: "only 2 of 3 new keys"},
	{ID: "C13", Expect: "`E_ROOT_CHAIN`, the device stays at the version before", What: "only 2 of 3 old keys"},
	{ID: "C14", Expect: "`E_ROOT_CHAIN`, the device stays at the version before", What: "raised threshold not reached"},
	{ID: "C15", Expect: "`E_ROOT_CHAIN`, the device stays at the version before", What: "old threshold not reached"},
	{ID: "C16", What: "gap, repeat or descent in a file", Expect: "`E_ROOT_CHAIN`"},
	{ID: "C17", What: "† expired root between, † expired last", Expect: "† taken, `W_ROOT_EXPIRED`"},
	{ID: "C18", What: "33 roots, 16 KiB + 1, step 1,025", Expect: "`E_LIMIT`"},
	{ID: "C20", What: "power cut between root k and k+1", Expect: "goes on from k"},
	{ID: "C22", What: "root drops all release keys, then a bundle by one of them", Expect: "`E_SIG_THRESHOLD`"},

	{ID: "D1", What: "lower seq", Expect: "`E_ROLLBACK`"},
	{ID: "D2", What: "same seq and digest", Expect: "† exit 0, nothing written"},
	{ID: "D3", What: "same seq, other digest", Expect: "`E_EQUIVOCATION` and an alarm"},
	{ID: "D4", What: "below the minimum, never installed", Expect: "`E_ROLLBACK`"},
	{ID: "D5", What: "2^20 + 1 ahead, 2^64 − 1", Expect: "`E_LIMIT`"},
	{ID: "D7", What: "old epoch, higher seq", Expect: "`E_ROLLBACK`"},
	{ID: "D9", What: "old content, new seq", Expect: "† taken"},
	{ID: "D10", What: "expires below the time floor", Expect: "`E_EXPIRED` with the source of the time"},
	{ID: "D11", What: "wall clock 1970, 2106, three years behind", Expect: "† taken with `W_CLOCK`"},
	{ID: "D14", What: "issued in 2099", Expect: "`E_TIME_JUMP`, the floor does not move"},
	{ID: "D15", What: "the bundle that serves expires", Expect: "† serves"},
	{ID: "D16", What: "what is stored has expired at start", Expect: "† serves"},
	{ID: "D18", What: "both copies of the trust state damaged", Expect: "serves; updates `E_STATE`"},

	{ID: "E1", What: "other product, channel, hardware, device, label", Expect: "`E_TARGET`, says which"},
	{ID: "E2", What: "no selectors", Expect: "`E_FORMAT`"},
	{ID: "E3", What: "label only in local configuration", Expect: "`E_TARGET`"},
	{ID: "E5", What: "manifest A with the chunks of B", Expect: "`E_DIGEST` at the first"},
	{ID: "E7", What: "needs a newer tidegate", Expect: "`E_RUNTIME`"},
	{ID: "E8", What: "stick with another product, older, bad signature, the right one, `._right`", Expect: "† the right one, and four reasons"},
	{ID: "E9", What: "device named twice", Expect: "`E_FORMAT`"},

	{ID: "F1", What: "bit flipped in the first, a middle, the last chunk", Expect: "`E_DIGEST` with its number"},
	{ID: "F2", What: "chunk shorter, longer; the last missing", Expect: "`E_FORMAT`, `E_TRUNCATED`"},
	{ID: "F3", What: "plain size lies", Expect: "`E_DIGEST` at size + 1"},
	{ID: "F5", What: "broken zstd inside a valid digest", Expect: "`E_CODEC`, no panic"},
	{ID: "F6", What: "wrong plain digest", Expect: "`E_DIGEST`"},
	{ID: "F9", What: "equal chunks", Expect: "† stored once"},
	{ID: "F10", What: "0 bytes, 1 MiB, 1 MiB + 1", Expect: "† taken"},
	{ID: "F12", What: "256 MiB in 64 MiB of memory", Expect: "† taken"},

	{ID: "G1", What: "stick pulled at 500 random offsets", Expect: "`E_MEDIA_GONE`, the next insert works"},
	{ID: "G2", What: "read errors; † short reads, interrupted reads", Expect: "`E_MEDIA_IO`; taken"},
	{ID: "G3", What: "1 KiB/s", Expect: "`E_MEDIA_SLOW`"},
	{ID: "G4", What: "a call that blocks for ever: list, open, read, write", Expect: "given up, no lock held, the next stick works"},
	{ID: "G6", What: "file grows, shrinks, is replaced while read", Expect: "`E_TRAILING`, `E_TRUNCATED`, `E_DIGEST`"},
	{ID: "G8", What: "100,000 files, deep tree, names of 64 KiB", Expect: "`W_TOO_MANY`, at most 64 opened", Also: []string{"platform/media.TestAFolderWithTooManyNames"}},
	{ID: "G9", What: "ext4 and every other file system not on the list", Expect: "`E_MEDIA_FS`"},
	{
		ID: "G10", What: "fuzzed FAT images", Expect: "our process lives",
		Elsewhere: "In `scripts/image.sh sticks`: twenty FATs cut up by chance, put into a running flash image in QEMU. What our process meets is errors of calls, shown by G1, G2 and G4 as well.",
	},
	{ID: "G12", What: "failed bundle still on the stick", Expect: "its word, hint `--retry`"},
	{ID: "G13", What: "two sticks, re-insert during a trial", Expect: "`E_BUSY`, then in the order of arrival"},
	{ID: "G14", What: "read-only stick, odd owners and modes", Expect: "† taken; that nothing was written is said"},
	{ID: "G16", What: "disk full; stick full", Expect: "`E_NO_SPACE`, space given back, nothing deleted", Also: []string{"sync/usbdrop.TestSticksThatCannotBeWrittenTo"}},

	{ID: "H1", What: "chunks reversed, shuffled, doubled", Expect: "† taken"},
	{ID: "H2", What: "the last chunk never comes", Expect: "waits with `W_STALLED`, resumable"},
	{ID: "H3", What: "pieces truncated, oversized, at wrong offsets", Expect: "dropped and counted"},
	{ID: "H5", What: "10,000 announcements a second", Expect: "bounded", Also: []string{"sync/mqttsync.TestAFloodOfAnnouncementsIsBounded"}},
	{ID: "H6", What: "pieces unsolicited or out of range", Expect: "dropped before anything is allocated", Also: []string{"sync/mqttsync.TestHostileMessagesAreDroppedAndCounted", "sync/mqttsync/pipe.TestAPacketThatIsAnnouncedTooLargeEndsTheConnection"}},
	{ID: "H7", What: "metaset A, chunks of B", Expect: "`E_DIGEST`", Also: []string{"sync/mqttsync.TestABundleWithWrongChunksIsRefused"}},
	{ID: "H8", What: "disconnect, restart, power cut in a transfer", Expect: "† resumes, hashes again", Also: []string{"sync/mqttsync.TestAChunkOutlivesEveryCut"}},
	{ID: "H9", What: "bundle of another site", Expect: "`E_TARGET`"},
	{ID: "H11", What: "the report fails after the confirmation", Expect: "† stays confirmed, told again", Also: []string{"sync/mqttsync.TestResultsAreSentUntilTheyAreStored"}},
	{ID: "H12", What: "TLS to the broker fails by the clock", Expect: "told, serves; asks for the time only", Also: []string{"sync/mqttsync/pipe.TestWaysToABroker"}},

	{ID: "I1", What: "power cut while receiving", Expect: "old serves; the part is a cache"},
	{ID: "I2", What: "power cut when staged", Expect: "old serves"},
	{ID: "I3", What: "power cut in the activation", Expect: "exactly old, or new on trial"},
	{ID: "I4", What: "power cut in the window", Expect: "on trial, one attempt less"},
	{ID: "I5", What: "power cut in the confirmation", Expect: "on trial, or confirmed with its counters"},
	{ID: "I6", What: "power cut in the rollback", Expect: "on trial, or good"},
	{ID: "I7", What: "SIGKILL at every crash point, twice", Expect: "serves old or new; counters and pointers agree"},
	{ID: "I8", What: "database cut, bit flipped, meta page zeroed", Expect: "serves; repaired, or `E_STATE`"},
	{ID: "I9", What: "disk turns read-only", Expect: "`E_STORE_RO`, serves"},
	{ID: "I10", What: "ENOSPC, EIO at a commit", Expect: "no confirmation, serves"},
	{
		ID: "I11", What: "1,000 cuts by relay", Expect: "0 lost, 0 wrong counters",
		Elsewhere: "Needs a rig with a relay. Nearest here: `scripts/crash`, lost and torn writes of a real disk under load, `scripts/image.sh cuts`, the writes of a flash image replayed up to random moments, and I7.",
	},
	{ID: "I12", What: "Ctrl-C, SIGTERM in `apply`", Expect: "running it again works"},
	{ID: "I15", What: "rot in the bundle that serves", Expect: "alarm, repaired by inserting it again"},

	{ID: "J1", What: "bundle kills the process at load", Expect: "three attempts, `E_HEALTH`"},
	{ID: "J2", What: "every answer is 502", Expect: "back within the window"},
	{ID: "J3", What: "probe wrong, late", Expect: "back"},
	{ID: "J4", What: "probe flaps, passes at the end", Expect: "† confirmed"},
	{ID: "J6", What: "good is revoked during the trial, which fails", Expect: "older serves"},
	{ID: "J8", What: "by hand, nobody comes", Expect: "back at the deadline"},
	{ID: "J9", What: "`rollback`; to below the minimum", Expect: "† done; `E_ROLLBACK`"},

	{ID: "K1", What: "sealed for another device", Expect: "`E_SECRET_RECIPIENT`"},
	{ID: "K3", What: "500 recipients; 1,000 hybrid ones", Expect: "† taken; `E_LIMIT`, hint at a group key"},
	{ID: "K4", What: "search data, logs, audit, reports for the secret", Expect: "0 hits", Also: []string{"sync/intake.TestSecretsReachTheEditionAndNothingElse"}},
	{ID: "K5", What: "key file 0644, lost, wrong owner", Expect: "`E_KEY`", Also: []string{"platform/identity.TestKeysThatCannotBeUsed", "platform/identity.TestForeignOwner"}},
	{ID: "K6", What: "audit entry edited, removed, tail cut, chain made anew", Expect: "found and named", Also: []string{"store/audit.TestTamperingIsNamed", "store/audit.TestCutExportsAreTruncated"}},
	{ID: "K7", What: "file changed between `info` and `sign`", Expect: "`--expect` stops it", Also: []string{"cmd/tidectl/testdata/script/ceremony.txtar: bundle sign s.tide --key release2.key --expect"}},
	{ID: "K8", What: "wrong passphrase; passphrase as an argument", Expect: "`E_KEY`; there is no such argument", Also: []string{"sync/keyfile.TestKeyComesBackWithItsPassphraseOnly", "cmd/tidectl/testdata/script/keys.txtar: wrong passphrase"}},
	{ID: "K9", What: "`extract` of hostile names", Expect: "stays in its folder"},
	{ID: "K10", What: "every word of a refusal", Expect: "comes out of at least one test"},
}

// Later are the rows that belong to later releases; a device of this one refuses what it does
// not know.
var Later = []string{
	"B13 overlay outside `site/` · B17 approvals · C23 recovery root", "D12 D12a D13 signed heads", "E4 F7 overlays and thin bundles", "G15 raw device without a file system",
}
