// Package gateway is the gate between devices and the cloud: the vocabulary, the story of a message, and the seams that
// sources, uplinks, catalogs, filters and the journal are joined at.
//
// # Life of a message
//
//  1. A Source reads a frame and makes a Message of it. What breaks its protocol or is not permitted is refused there,
//     counted, and never becomes a message (Gate.Refuse).
//  2. The source calls Gateway.Admit with what its socket held, as one batch. Every message gets its ID: before anything
//     is decided, because encryption and plugins are bound to it.
//  3. Codec.Decode indexes the payload. What a receiver could read differently from us is opaque.
//  4. Classifier.Classify makes the findings: which category holds which place. Leaves that nothing covers are unknown.
//  5. Every attached Filter gives an Opinion, once per message. An error, a trap, a verdict that breaks the rules: the
//     filter's on_error, which is block or hold. Where a filter has a canary, the device decides which version is asked.
//  6. Per uplink, VersionSet.plan joins the policy's first matching row for every finding (Policy.Rule) with the
//     opinions (Merge): what acts on the message, and what is done to each place.
//  7. VersionSet.edit applies the operations (Redactor), splices them into the original bytes (Codec.Encode), reads the
//     result as a receiver would and grades it again (VersionSet.check). Whatever goes wrong blocks. Where the uplink has an
//     Identity, the id is then written around, into or beside the result (VersionSet.identify).
//  8. VersionSet.entry makes the Record of it all. Journal.Append seals what may leave, in the caller, and hands record
//     and bodies to the one committer, which puts many callers' entries into one transaction.
//  9. The Ticket is done when the transaction is on disk. Only now does the source acknowledge, in order of arrival;
//     with success also when the message was blocked or held.
//  10. A Forwarder per uplink, which runs from the moment that the journal is open, takes what waits from its Feed, sends
//     it, and commits a delivery record for every range that the uplink acknowledged. What the cloud refuses for good is
//     found (trial) and parked. Drained segments are removed; their records move to the archive, and from there, where the
//     box cannot keep them, to a collector (package ship).
//
// A version set may be on probation (Gateway.Try): a sample of the messages is then decided by its predecessor as well, and a
// filter may have shadows, other versions that are asked once a decision stands (VersionSet.shadow). Nothing of what either says
// is applied.
//
// Nothing is acknowledged that is not durable; nothing leaves that is not on the record. Every exit on the way is a
// decision that the message stays: there is no path on which an error becomes a pass.
//
// # Records
//
// A record is a leaf of the log (RFC 6962 §2.1), so its encoding is frozen; a change of it is a new version byte.
// Integers are big-endian; uvarint is the base-128 form of encoding/binary in its shortest form; times are milliseconds
// since 1970 as signed 64 bits; a list is a uvarint count and its elements; detail is a uvarint length and bytes of JSON.
//
//	record   = version(1) kind(1) flags(1) time(8) rest
//	version  = 1
//	kind     = 1 decision, 2 delivery, 3 release, 4 expiry, 5 change, 6 event
//	flags    = 1 the clock was set, 2 personal, 4 sensitive
//
//	decision = incarnation(8) counter(8) received(8) set(uvarint) source(uvarint) grade(1) input(32)
//	           findings: list of category(uvarint) action(1) count(uvarint)
//	           plugins:  list of plugin(1) action(1) grade(1) failed(1) reason(uvarint) edits(uvarint)
//	           outcomes: list of uplink(1) state(1) action(1) reason(1), and left(32) unless the state is blocked; the upper
//	           four bits of state are the priority
//	delivery, expiry, release = uplink(1) state(1) first(uvarint) last(uvarint) count(uvarint) detail
//	change, event = set(uvarint) detail
//
// Category, plugin, source and uplink are numbers; the change record of the version set (its number is set) lists their
// names and digests. A delivery or expiry says that of the messages from first to last which waited for the uplink count are
// settled: those that the detail means (package journal, "Settlements"). Grades, actions, states and reasons are the numbers
// of their constants. Input and left are commitments (Commitment); the salt lies beside the body in the journal and goes
// with it. Left of an uplink whose Identity sends a salt along is committed with that one, the first 16 bytes of the
// commitment "sluice salt v1" with the salt of the message to the number of the first uplink that gets the bytes (SaltFor).
//
// An example: kind event, clock set, at 2026-01-01T00:00:00Z, set 1, detail {} is
//
//	01 06 01 00 00 01 9b 76 da a8 00 01 02 7b 7d
//
// # Goroutines
//
// The package starts per Forwarder.Run the settler, and per link a watcher and one for its link condition; all end before
// Run returns, about a second after its context at the most. Deciding runs in the callers of Admit.
package gateway
