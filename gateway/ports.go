package gateway

import (
	"context"
	"time"
)

// MaxUplinks bounds the uplinks a journal ever numbers: waiting sets are 32-bit sets.
const MaxUplinks = 32

// Priorities is the number of priorities that a message may wait with, from 0.
const Priorities = 4

// UplinkSet is a set of uplink numbers.
type UplinkSet uint32

// Has reports whether uplink n is in the set.
func (m UplinkSet) Has(n int) bool { return n >= 0 && n < MaxUplinks && m&(1<<n) != 0 }

// Source is the device side of one protocol.
type Source interface {
	// Run accepts devices and admits what they send until ctx ends, then stops reading, waits for what is in hand,
	// acknowledges it and returns. It returns early only when it cannot listen at all.
	Run(ctx context.Context, g Gate) error
}

// Gate is what a source sees of the gateway.
type Gate interface {
	// Admit decides the messages of one batch in order, in the caller, and hands the outcome to the committer.
	// An error means that none of the batch was taken over. Admit blocks while too many bytes are in hand.
	Admit(ctx context.Context, batch []*Message) (Ticket, error)
	// Full reports that the journal takes nothing at the moment: a source then refuses QoS 0 and stops reading the rest.
	Full() bool
	// Refuse counts n messages of a source that were refused before a decision.
	Refuse(source string, reason Refusal, n int)
}

// Ticket is the promise for one batch.
type Ticket interface {
	// Wait returns nil once the decisions and what may leave are on disk: only now may the batch be acknowledged.
	// Any error means that the device must not be told anything. It may be called again; a ticket that is done answers
	// also when ctx has ended, so that a caller with an ended ctx can ask without waiting.
	Wait(ctx context.Context) error
}

// Refusal is why something was refused before a decision: a label of refused_total.
type Refusal string

// The refusals.
const (
	RefusedNotPermitted Refusal = "not_permitted" // client or topic is not allowed
	RefusedMalformed    Refusal = "malformed"     // frame breaks its protocol
	RefusedTooLarge     Refusal = "too_large"     // frame over the limit
	RefusedFull         Refusal = "full"          // no room and nobody waits for an acknowledgement
	RefusedUnsupported  Refusal = "unsupported"   // protocol version or feature not spoken
	RefusedLogin        Refusal = "login"         // credentials refused
)

// Refusals lists every refusal, for metrics.
var Refusals = []Refusal{RefusedNotPermitted, RefusedMalformed, RefusedTooLarge, RefusedFull, RefusedUnsupported, RefusedLogin}

// Outbound is one message on its way to one uplink.
type Outbound struct {
	Seq     uint64
	ID      ID
	Topic   string // the mapped topic, without the uplink's prefix
	Payload []byte
	Retain  bool
	QoS     byte // as received; the uplink may be set to send with another
	Source  string
	Grade   Grade
	Control bool // an epoch key or checkpoint on a reserved topic: outside of received

	Waits, Holds UplinkSet // where the message waited and was held, over all uplinks, when it was committed
}

// Uplink is one recipient in the cloud.
type Uplink interface {
	// Open connects once. The link is good until its first error; the caller then closes it and opens another, with its
	// own jittered backoff. acked is called once for every message that the remote took over, as a rule in the order of Send,
	// from one goroutine at a time, and never after Close returned.
	Open(ctx context.Context, acked func(seq uint64)) (Link, error)
}

// Link is one connection of an uplink.
type Link interface {
	// Send hands one message to the remote, in order, and returns when it is written; it blocks while the window of
	// unacknowledged messages is full. The message must not change until it is acknowledged or the link closed.
	Send(ctx context.Context, o *Outbound) error
	// Broken is closed when the connection is lost; what was not acknowledged must be sent again on another link.
	Broken() <-chan struct{}
	// Close ends the connection and everything it started. Unacknowledged messages stay unacknowledged.
	Close() error
}

// Outlet is one outbound form of a message, as the journal keeps it.
type Outlet struct {
	Uplinks  UplinkSet // where this form waits; for Hold: where it is held
	Hold     bool      // Payload is a sealed hold, Topic is empty
	Priority byte      // below Priorities: higher is sent first
	Topic    string    // the mapped topic
	Payload  []byte    //
}

// Entry is one record with what belongs to it, to be committed in one transaction.
type Entry struct {
	Record  []byte // encoded
	Leaf    [32]byte
	ID      ID
	Source  string // "" for entries that are no decision
	Grade   Grade
	Retain  bool
	QoS     byte
	Control bool
	Blocks  UplinkSet // uplinks for which the message is blocked
	Waits   UplinkSet // union over Outlets that are not held
	Holds   UplinkSet // union over Outlets that are held
	Again   uint64    // seq of the decision of a dead message that this entry lets wait again, with a release record
	Salt    [16]byte
	Outlets []Outlet
}

// Journal is the only queue: records and bodies, committed together, in order.
type Journal interface {
	// Append seals the bodies in the caller and hands the entries to the committer, in order and all in one
	// transaction. It returns at once; done is called exactly once from the committer, in the order of Append, with the
	// seq of the first entry after the commit, or with the error that makes the commit impossible for good (closed).
	// While the disk or the budget is full the entries stay with the committer and done is not called.
	Append(entries []*Entry, done func(first uint64, err error))
	// Full reports that the budget is spent or the disk refuses to write.
	Full() bool
	// Feed returns what hands out the messages that wait for an uplink.
	Feed(uplink int) Feed
	// Number returns the journal's lasting number for a name of the given kind ("source" or "uplink"); numbers are given
	// in order of first use and never reused. At most MaxUplinks uplinks.
	Number(kind, name string) (int, error)
	// Incarnation is the random half of every ID given while this journal is open.
	Incarnation() uint64
	// Totals and Tally count messages by state, from the records.
	Totals() Totals
	Tally() map[TallyKey]uint64
}

// Feed hands out the messages that wait for one uplink, each once until it is returned or settled: the gateway's own
// entries first, then by priority, then the oldest first. It has one user; its methods may be called concurrently.
type Feed interface {
	// Begin says that a link was opened: what is committed from now on is live, what was before is backlog.
	Begin()
	// Next appends to out up to most messages, of at most about maxBytes of payload but at least one. None: nothing waits
	// that was not handed out. The messages are the caller's. Damaged ones are left behind, on the record; an error is of
	// reading or committing, or says that an at-rest key is missing.
	Next(most, maxBytes int, out []*Outbound) ([]*Outbound, error)
	// Await blocks until Next may have something, or ctx ends.
	Await(ctx context.Context) error
	// Return takes back messages that were handed out and are not settled: Next hands them out again, in their place.
	Return(list []*Outbound)
	// Settle commits that messages were forwarded, or are dead: why is a code, for the record. It returns after the commit.
	// What is settled already is left out; what was not handed out is an error. The slice is the caller's.
	Settle(ctx context.Context, list []*Outbound, state State, why string) error
	// Hurry has the committer not wait for more before its next commit.
	Hurry()
}

// Archive names one sealed file of records: those from First up to, not with, Next.
type Archive struct {
	First, Next uint64
	Bytes       int64 // of the file
}

// RootedRange is a range of records with their root: package journal, "Archives".
type RootedRange struct {
	First, Next uint64
	Root        [32]byte
}

// Shipment is an archive file as a collector gets it.
type Shipment struct {
	Archive
	SHA256 [32]byte
	Root   [32]byte      // of the records in the file; zero when it does not follow from the tree
	Was    []RootedRange // larger ranges of records that these were archived in, before a part was lost to damage
}

// Receipt is a collector's word that it keeps a file, its signature checked.
type Receipt struct {
	Archive
	SHA256 [32]byte
	Root   [32]byte // of the records in the file; zero when it was not stated
	By     string   // who signed
}

// Clock tells the time and whether it can be trusted: a box that never set its clock starts in 1970.
type Clock func() (now time.Time, trusted bool)
