// Package ship hands the archive of a gateway to a collector, file after file, so that the box may let go of it.
//
// # Protocol
//
// A collector is an HTTP server that keeps files and answers with signed receipts. For each archive the gateway sends
//
//	PUT <url>/<gateway>/<first>-<next>
//	Content-Type: application/octet-stream
//	Content-Length: <size of the file>
//	Content-Digest: sha-256=:<base64 of the SHA-256 of the file>:
//	Sluice-Records: sha-256=:<base64 of the root of the records>:      when it is known
//	Sluice-Records-Of: <first>-<next> sha-256=:<base64 of its root>:    any number
//	Expect: 100-continue
//	Authorization: Bearer <token>            when one is configured
//
// where first is the seq of the first record in the file and next the one behind its last, each 20 digits. The body is the
// file (package journal, "Archives"): its records are sealed under the gateway's at-rest key, the collector cannot read
// them. The answers are
//
//	200   the records were kept before, as the same bytes or others
//	201   it is kept now: on disk, under its name, synced
//	400   name, size, digest or roots are not those of an archive
//	401   token or certificate are not good
//	409   another file is kept under this name, or one that overlaps it: a log has one history
//	413   too large
//
// and with 200 and 201 the body is a receipt (package signed, "Receipts"), with 201 for these very bytes, signed by the key
// that the gateway's configuration names. Everything else in the answer is ignored, redirects are not followed. The same request may be
// made any number of times. Files are sent from the oldest on, one at a time.
//
// The root of the records (package journal, "Archives") commits to what is in a file, whatever its bytes are: a repair of a
// damaged file writes the same records into another one. Sluice-Records is the root of the range in the path.
// Sluice-Records-Of names a larger range that these records were archived in before others of it were lost, and its root. A
// collector keeps the root that came with a file. A request with a range that it keeps a file of is answered, before the
// body is read, by the roots alone: the same root with 200 and a receipt for the file that it has, over that file's range,
// after reading that it still is as it was when the root came; another one with 409. Files that came without a root are
// compared by their bytes, and get the root when these are the same. A request without the two fields, of an older gateway,
// gets a receipt without a root.
//
// A gateway states a root only after it opened every block of the file and found the records to be those of its tree; the
// digest is of the bytes that it then read. A damaged file is not sent.
//
// # What a collector can do
//
// Nothing is believed but a receipt, and a receipt only for the gateway and either range, size and digest of the file as it
// is on the disk at that moment, or a range and the root that the tree has over it; the journal checks it once more before
// it trims. A collector that lies, stalls, answers without end or with the receipt of another file costs one connection,
// Config.Timeout and 4 KiB of memory, and is asked again after a pause that doubles, with jitter, up to ten minutes. It cannot make the gateway forget anything that it has not
// signed for. That it keeps what it signed for is its operator's promise; the receipts, which are kept until their archive
// is trimmed, and the event "archive trimmed" with digest and collector on the log are the evidence.
//
// # Goroutines
//
// None of its own but those of net/http; Run works in its caller.
package ship
