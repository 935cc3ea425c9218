package gateway

import "fmt"

// State is where a message stands, per uplink or as a whole.
type State uint8

// The states in the order in which a message counts once, as the first that applies to any of its uplinks. Received is
// not a state of a message: it is the label under which every message is counted on entry.
const (
	NoState   State = iota
	Waiting         // committed, not yet acknowledged by the uplink
	Held            // sealed, waits for a person
	Forwarded       // acknowledged by the uplink
	Dead            // the uplink refuses it for good
	Expired         // left behind by the age rule
	Dropped         // left behind by the full rule
	Rejected        // a hold that a person refused
	Erased          // erased at the subject's request
	Blocked         // decided: does not leave
	Received
)

var stateNames = [...]string{"none", "waiting", "held", "forwarded", "dead", "expired", "dropped", "rejected", "erased", "blocked", "received"}

// String returns the state's written form, as in metrics and totals.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Totals counts messages by state, each once. Refused messages are outside of Received.
type Totals struct {
	Received  uint64 `json:"received"`
	Forwarded uint64 `json:"forwarded"`
	Blocked   uint64 `json:"blocked"`
	Held      uint64 `json:"held"`
	Waiting   uint64 `json:"waiting"`
	Rejected  uint64 `json:"rejected"`
	Expired   uint64 `json:"expired"`
	Dropped   uint64 `json:"dropped"`
	Dead      uint64 `json:"dead"`
	Erased    uint64 `json:"erased"`
	Refused   uint64 `json:"refused"`
}

// Identity reports whether received equals the sum of the states.
func (t Totals) Identity() bool {
	return t.Received == t.Forwarded+t.Blocked+t.Held+t.Waiting+t.Rejected+t.Expired+t.Dropped+t.Dead+t.Erased
}

// Of returns the counter of one state, nil for NoState.
func (t *Totals) Of(s State) *uint64 {
	switch s {
	case Received:
		return &t.Received
	case Waiting:
		return &t.Waiting
	case Held:
		return &t.Held
	case Forwarded:
		return &t.Forwarded
	case Dead:
		return &t.Dead
	case Expired:
		return &t.Expired
	case Dropped:
		return &t.Dropped
	case Rejected:
		return &t.Rejected
	case Erased:
		return &t.Erased
	case Blocked:
		return &t.Blocked
	}
	return nil
}

// TallyKey is one series of the per-uplink counters: product metrics messages_total, waiting_messages, held_messages.
type TallyKey struct {
	Source, Uplink string
	Grade          Grade
	State          State
}
