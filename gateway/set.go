package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"slices"
)

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
	Shadows       []Shadow                         // versions that see messages and have no effect
	DeviceKey     [32]byte                         // keys the hash by which devices are canaries
	By            string                           // who put it in force, for its record
	Describe      func(by string) []byte           // detail of the change record: JSON with digests and the tables of names
	Close         func()                           // called when no message is judged by the set any more; may be nil
}

// Attached is a filter with what the operator said about it.
type Attached struct {
	Filter  Filter
	Topics  []string  // topic filters; none = every message
	Uplinks UplinkSet // bit i = VersionSet.Uplinks[i]: where its effects apply; empty = everywhere
	OnError Action    // Block or Hold; anything else is Block
	Canary  Filter    // another version, asked in place of Filter for the devices in the share; nil: none
	Share   uint16    // of the devices, in ten-thousandths of the keyed hash of source and client id
}

// Shadow is another version of an attached filter: it is asked about the same messages, after they were decided, and what it
// says is compared and thrown away.
type Shadow struct {
	Beside int // index into VersionSet.Filters
	Filter Filter
	// Tell is called with both opinions after every message that the filter was asked about. It must not block or keep
	// anything. input is the commitment of the message as received, which its record has too.
	Tell func(m *Message, input [32]byte, inForce, shadow *FilterOpinion)
}

// choose returns the version that judges the messages of a device, and its number in records: canaries stand behind the
// filters.
func (s *VersionSet) choose(i int, m *Message) (Filter, uint8) {
	a := &s.Filters[i]
	if a.Canary == nil || s.device(m) >= a.Share {
		return a.Filter, uint8(i)
	}
	return a.Canary, uint8(s.CanaryNumber(i))
}

// CanaryNumber is the number in records of the canary beside filter i.
func (s *VersionSet) CanaryNumber(i int) int { return len(s.Filters) + i }

// FilterOf is the version that spoke an opinion.
func (s *VersionSet) FilterOf(o *FilterOpinion) Filter {
	if int(o.Number) != o.Filter {
		return s.Filters[o.Filter].Canary
	}
	return s.Filters[o.Filter].Filter
}

// device places a device among ten thousand: the same one always at the same place, and nobody without the key can say where.
func (s *VersionSet) device(m *Message) uint16 {
	h := hmac.New(sha256.New, s.DeviceKey[:])
	io.WriteString(h, m.Source)
	h.Write([]byte{0})
	io.WriteString(h, m.Client)
	var sum [sha256.Size]byte
	return uint16(binary.BigEndian.Uint64(h.Sum(sum[:0])) % 10000)
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
