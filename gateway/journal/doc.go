// Package journal keeps the records of a gateway and the bodies that may leave, in a folder of bbolt files. It is the
// gateway's only queue: what Append committed is on disk, in one transaction with its record, and stays until every
// uplink acknowledged it and the acknowledgement is itself a record.
//
// # The folder
//
//	format                                  "sluice journal format 2" and a line feed; without it a journal is of format 1
//	writer                                  held by the writer (flock, exclusive) or by readers (shared)
//	lock                                    a folder: programs that know format 1 only stop at it
//	lock/format                             the text of format once more, its SHA-256 in hexadecimal and a line feed
//	segment-<first seq, 20 digits>.bolt     records and bodies; the newest one may be open for writing
//	state.bolt                              numbers of names; what the records came to, up to some seq
//	parked.bolt                             held and dead bodies whose segment is gone, each with its record
//	archive/archive-<first seq>.slr         records and checkpoints of segments that are gone
//	archive/archive-<first seq>.receipt     a collector's receipt for it, or for the larger one that it was (package crypto/signed)
//	archive/trimmed                         what is kept of archives that are gone
//	losses                                  what was lost to damage; there is none when nothing was
//	damaged/<name>.<UTC time>               files that were damaged, as they were: nothing removes them but their owner
//	repair/                                 a repair that is decided on and not on the record yet
//	suspect                                 empty, or "state" for state.bolt: the next Open reads everything
//	reserve                                 room that is given up when the disk is full, so that deliveries can be recorded
//
// seq counts records from 0 without gaps and is the record's leaf index in the tree. Record 0 is an event, made with
// the journal. Integers are big-endian.
//
// # Segments
//
// A segment is a bbolt file with a bucket "entries" and these keys, which are only ever added behind each other:
//
//	seq(8) ‖ 0              →  leaf hash(32) ‖ record         the record is that of package gateway
//	seq(8) ‖ 1 + variant    →  body                           one per outlet of the message, variant from 0
//	size(8)                 →  checkpoint                     of the tree over records 0 to size-1
//
// Beside it the bucket "trees" has, for the segment's first seq and for the size of every checkpoint,
//
//	size(8)  →  version(1) = 1 ‖ roots(32 each) ‖ SHA-256 of the checkpoint's text, or zero(32) ‖ sum(32)
//
// with the roots of the complete subtrees of the tree of that size, largest first, and the SHA-256 of the key and all in
// front of the sum. With it the log can go on when records before are lost. A segment without this bucket is as good.
//
// The leaf hash is SHA-256 of 0x00 and the record [RFC 6962 §2.1]. What stands in a file at or behind the first seq of
// the next file does not count: it is of a commit that failed, or was thought to, and was done again there. No file is
// written to by two processes, nor again after a commit to it failed.
//
// A body is a header, a frame head and a sealed part:
//
//	header      waits here(4) ‖ waits(4) ‖ holds(4) ‖ source(2) ‖ grade(1) ‖ flags(1) ‖ CRC-32C of these 16 bytes(4)
//	frame head  version(1) = 1 ‖ key id(4) ‖ incarnation(8) ‖ counter(8)
//	sealed      AES-256-GCM of: topic length(2) ‖ salt(16) ‖ id(16) ‖ topic ‖ payload; the tag(16) comes last
//
// The first three are sets of uplinks, bit n for number n: those of this body, those for which the message waits and
// those for which it is held, in any of its bodies. Flags: 1 held, 2 control, 4 retain, 8 and 16 the QoS, 32 and 64 the priority.
// The key is
// HKDF-SHA256 of the at-rest key with that id, salt the 8 bytes of incarnation, info "sluice journal v1", 32 bytes
// [RFC 5869]. The nonce is counter ‖ 0 0 0 ‖ variant; a counter is drawn for every entry and never again in an incarnation,
// and an incarnation is 64 random bits drawn at every Open. Header and frame head are the additional data. The tag is the
// checksum: bbolt has none of its own, and a body whose tag is wrong is never handed out (ErrCorrupt).
//
// Example: the at-rest key 1 is the bytes 00 to 1f, incarnation 0102030405060708, counter 5, variant 0. Message 4 of
// that incarnation, of source 2, graded general, QoS 1, retained, waits for uplinks 0 and 1; this body is for uplink 0,
// topic v1/a, payload {"v":1}, salt aaaa and 14 zero bytes. Its body is
//
//	0000000100000003000000000002010c7a83ab0c
//	010000000101020304050607080000000000000005
//	ab4dbdc51fd1cb2fcc299065ecc1a6b6d55f2c2d2123a8091586fe1609c35bd6c3d85ff0defd43a71af21f9738
//	f054f55c862c5455858d66a080e8b76b
//
// # Archives
//
//	file        header ‖ blocks
//	header      "SLRARC01" ‖ key id(4) ‖ salt(16) ‖ first seq(8) ‖ next seq(8) ‖ number of blocks(4)
//	block       first seq(8) ‖ count(4) ‖ length(4) ‖ sealed, of that length, tag included
//
// Blocks end before multiples of 256, so that each but the first and last holds one subtree of level 8. Sealed is
// AES-256-GCM of the raw DEFLATE stream [RFC 1951] of count times (length, varint ‖ record). The key is HKDF-SHA256 of the
// at-rest key, with the header's salt and info "sluice archive v1"; the nonce is the block's number(8) ‖ 0(4); the
// additional data is header ‖ block head. The last block holds checkpoints instead, (size, varint ‖ length, varint ‖ text).
//
// The root of the records from first up to next is the SHA-256 of 0x02 ‖ first(8) ‖ next(8) ‖ roots(32 each), with the roots
// of the complete subtrees of the tree that these records consist of, each as large as can be, from left to right.
//
// # State
//
// state.bolt has the buckets "source" and "uplink" (number(4) → name), "roots" (n(8) → root of the complete subtree n of
// level 8 ‖ the first 8 bytes of the SHA-256 of key and root, which earlier builds left out), "ranges" (first(8) ‖ next(8) →
// root of the records that are or were an archive ‖ SHA-256 of key and root), "snapshot" (newest → JSON: tree, totals, tally,
// dead messages, segments and checkpoint as of record next; sum → SHA-256 of that and of all keys and values of "states"; names
// → SHA-256 of all names, each as kind ‖ 0 ‖ number ‖ name ‖ 0, sources first; signed → size and tree, as in a segment, stored
// before it is signed),
// "states" (chunk(8) ‖ uplink(1) → the states of 65,536 seqs as runs of length uvarint ‖ state) and "trimmed" (newest → a
// copy of the file trimmed; clock → JSON: for how long the clock has been steady). A name is durable before a record uses
// its number, and has an event record too. All of it follows from the records, except what is trimmed, and is written at the
// end of a segment, with a checkpoint and at the end; Open takes the snapshot and lets it follow the records behind it.
//
// # Settlements
//
// What waits for an uplink is settled once: forwarded or dead by a delivery record, expired or dropped by an expiry record.
// Such a record says that of the messages from First to Last which still waited for Uplink, those in its scope, Count of
// them, are settled. The scope is its detail: {"priority":N} is the messages of one priority, {"control":true} the gateway's
// own entries, which are in no count, "grades":[…] limits it to grades, "why" is a code. Without a detail everything is
// meant. A release record with the state waiting lets the dead message First wait for Uplink again, under its own seq.
//
// # Life of a segment
//
// When a segment's file is full, or the journal is, the next commit starts another. Once nothing in it waits for any
// uplink, the sweeper (1) copies held and dead bodies to parked.bolt, (2) writes the archive under a temporary name, syncs
// and renames it, (3) saves the state, (4) deletes the segment. After a crash between two steps, Open finds a segment
// without archive, which is drained again, or with one, and deletes it.
//
// # Trimming
//
// Archives leave at the front of the log only, one after the other: the records that are here are those from some seq X
// on. The oldest archive goes when
//
//   - a collector has it: its receipt (Options.Receipt) is for the file as it is on the disk at that moment; or it states
//     a range that covers the archive, with the root that the tree has over it, and the file opens. A receipt whose root is
//     not the tree's never holds. And records take at least half of AuditMaxSize, or it is old enough; or
//   - it is old enough and there is no collector, or records take half of AuditMaxSize and the collector does not come
//     for it. Old enough is when its newest record, by the times that were made under a clock that was set, is older
//     than Retention.Provision where it holds a decision that let personal information or important data out, a delivery
//     of one or a release, and else than Retention.Default; seven days are added to both. An archive whose last record
//     was made before the clock was set is as old as the first record behind it that was not. The clock has to have been
//     set, and in step with the uptime of the box, for the last 24 hours of running; a jump, or more than seven days
//     between two runs, starts these hours anew.
//
// Before its file goes, an event says so on the log: {"event":"archive trimmed","first":…,"next":X,"bytes":…,"sha256":…,
// "why":"shipped"|"retention","collector":…}, with size and digest of the collector's file, and "of":[first,next] when
// that holds a larger range. The steps are (1) the event, committed, (2) trimmed, under a temporary name,
// synced and renamed, (3) a copy of it in state.bolt, without the roots of subtrees below X, (4) the archive's file and its
// receipt are removed. After a crash between two of them Open begins at what trimmed says, or trims again, with another
// event.
//
// The file trimmed is
//
//	trimmed     "SLRTRM01" ‖ key id(4) ‖ salt(16) ‖ sealed
//
// where sealed is AES-256-GCM of the raw DEFLATE stream of a JSON object; the key is HKDF-SHA256 of the at-rest key with the
// salt and info "sluice trimmed v1", the nonce 12 zero bytes, the additional data what is in front. The object holds the
// snapshot as of record X (see State), in which tree is the compact range of the tree over the records before X and
// checkpoint the newest one at or below X; names, all names by number; newest, the newest time of the records before X;
// provision, the seq behind the last decision among them of the class provision; changes, the newest 16 change records
// among them; nodes, the roots of complete subtrees that prove the checkpoint, the changes and every record from X on
// against any tree; states, those that the bucket of this name would hold; settings and open, the entries among them that
// were not settled at X, so that settlements from X on can be counted: uvarint distance to the seq before (the first to 0),
// uvarint number of the setting.
//
// Records from X on, and the changes, are proved as if nothing were missing; for all other records below X that is the
// collector's to do, whose archives ShippedLog reads.
//
// # Damage
//
// Open reads what it needs, and when that is damaged, or the file "suspect" is there, it reads everything and makes the
// journal whole, as Repair always does. From a damaged file it takes what proves itself, without trusting a page number or
// a length: a record by its leaf hash, a body by its tag, a stored tree by its sum; in an archive each block by its tag.
// One flipped bit is set right where hash or tag then fit. What the newest tree of a file reaches counts before pages
// that only lie there, two different records at one seq count as none, and what stands at the first seq of the next file
// or behind it does not count. A body that is missing is a loss only while somebody needs it: its message waits or is held,
// by the states of the snapshot and the settlements behind it, as far as they are readable.
//
// A file is whole only when every key leads to its entry, and parked.bolt when it has every body that an archive says is held.
// An entry of parked.bolt stands where the archive has the record of the message, whatever its key says.
//
// Runs of records without a gap become files of their own. For the lost records in between, the tree decides:
//
//  1. Known trees are those in segments, in the snapshot, in "signed", in the file trimmed and in the list of losses, each
//     with its sum or tag; roots of level 8 in state.bolt lead from one to further sizes.
//  2. From the first record that should be here on, the leaves that are there are pushed until a record is missing.
//  3. A hole: when a tree is known that ends behind the lost records, the smallest such is taken, and the log goes on
//     from its size. Nobody ever gets the seqs of a hole again.
//  4. Records behind a hole and in front of that size keep their seqs; they cannot be proved.
//  5. When none is known, and no checkpoint beyond was signed, nobody was told of a root: the largest known tree is
//     taken, and event records take the lost seqs behind it. The records that follow keep theirs.
//  6. When a checkpoint beyond was signed, going on would contradict it: ErrForked, and nothing is changed.
//  7. A known tree behind the last record that is there means that the end is lost: a hole as well.
//  8. A tree is stored in state.bolt before it is signed, and with the checkpoint in the segment: for 6 to happen both have
//     to be lost.
//
// The file "losses" is the SHA-256, in hexadecimal, of the JSON behind it, a newline, and {holes, bodies}: a hole with
// first, next, resume and tree, or filled; a body with the seq of its record and the sets of uplinks.
//
// The steps, each synced before the next: (1) everything new is written into repair.tmp with the plan, (2) that gets the
// name repair, which decides it, (3) damaged files move to damaged, (4) new ones to their names, (5) losses is written and
// one transaction puts it on the record: an event "journal damaged" per file, an expiry record, {"priority":N,"why":"damage"},
// for every run of messages that wait and have no body, and, when records or holds are lost, an event "journal restated" with
// events "journal states" behind it, (6) repair is removed. Whoever opens the journal after a crash goes on from where it was.
//
// With records lost, the counters and the states do not follow from the rest. The restatement says what they are from there
// on: totals, tally, and all records that are lost ("lost", first and last); what is waiting or held is counted by the bodies
// that are there, the rest of it is dropped. It ends all states; the events behind it give those that matter, as the bucket
// "states" has them, the messages that are dead, and all that were held and whose hold is lost ("held"). Settlements in front
// of it, and behind lost records, may count other messages than those that the records here know of.
//
// While the journal is open, a file of bbolt's that could not be written because a page of it is damaged, or whose newest meta
// page is not valid any more, is not written to again: messages go into another segment. Without state.bolt no checkpoint is
// signed and no segment becomes an archive until the next Open, which makes it again. What a damaged page hides of a segment
// waits until then as well: it is in no settlement. What was parked is looked up before its segment goes.
//
// While the journal is open, a body that waits and does not open is settled as dropped, with an expiry record of its own, and
// its bytes go to damaged/body-<seq>-<variant>.<UTC time>; the next Open reads everything. A dead message whose body is lost
// stays dead. Archives behind a hole are trimmed as if the hole were trimmed, together with those that follow when the tree is
// not known at their end; a checkpoint or a change record of trimmed records is kept only when the hashes beside it are not
// lost.
//
// A body, an archive or a segment under a key that is not given is no damage: Open, or Next, returns *KeyError and changes
// nothing.
//
// # Goroutines
//
// Open starts three, Close ends and awaits them: the committer (Journal.run), which alone writes segments; the sweeper
// (Journal.sweep), which alone writes state, archive and parked bodies, except that a new name is written by whoever
// needs it; the ticker (Journal.tick), which lets the committer look at the clock.
package journal
