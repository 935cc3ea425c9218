package gateway

import "slices"

// VersionSet is everything that decides, in force together: a message is judged by exactly one set from start to end,
// and its record names the set's number. It is immutable once in force.
type VersionSet struct {
	Number        uint64 // rises by one with every change; named by a change record
	Classifier    Classifier
	Codec         Codec // of the bodies; what it cannot decode is opaque
	Policy        *Policy
	Filters       []Attached
	Redactor      Redactor
	UnknownBlocks bool                             // unknown_field: block; else an unknown field is removed
	Uplinks       []UplinkInfo                     // in the order given to CompilePolicy
	Custodian     func(m *Message) ([]byte, error) // seals a hold with topic and client id; nil: a hold blocks
	Sources       map[string]uint16                // the journal's numbers
	Describe      func() []byte                    // detail of the change record: JSON with digests and the tables of names
	Close         func()                           // called when no message is judged by the set any more; may be nil
}

// Attached is a filter with what the operator said about it.
type Attached struct {
	Filter  Filter
	Topics  []string  // topic filters; none = every message
	Uplinks UplinkSet // bit i = VersionSet.Uplinks[i]: where its effects apply; empty = everywhere
	OnError Action    // Block or Hold; anything else is Block
}

// covers reports whether the filter is asked about messages on the topic.
func (a *Attached) covers(topic string) bool {
	return len(a.Topics) == 0 || slices.ContainsFunc(a.Topics, func(f string) bool { return TopicMatches(f, topic) })
}

// on reports whether the filter's effects apply to uplink u.
func (a *Attached) on(u int) bool { return a.Uplinks == 0 || a.Uplinks.Has(u) }

func (a *Attached) onError() Action {
	if a.OnError == Hold {
		return Hold
	}
	return Block
}
