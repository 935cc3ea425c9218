package gateway

import (
	"fmt"
	"time"
)

// Action is what happens to a field or to a whole message. The zero value lets nothing leave.
// Actions are merged with Stricter, never compared with <.
type Action uint8

// The actions. Hold and Block act on the message, the others on a field.
const (
	Undecided  Action = iota // nobody decided: it stays here, as Block
	Pass                     // leaves as it is
	Generalize               // leaves with less detail: fewer decimals, a prefix, a time bucket
	Mask                     // characters replaced
	Tokenize                 // replaced by a keyed pseudonym
	Encrypt                  // replaced by a ciphertext for one recipient
	Remove                   // the member or element does not leave
	Hold                     // the message waits, sealed, for a person
	Block                    // the message does not leave
)

var actionNames = [...]string{"undecided", "pass", "generalize", "mask", "tokenize", "encrypt", "remove", "hold", "block"}

// String returns the action's written form.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// ParseAction reads the written form of an action; "undecided" cannot be written and is refused.
func ParseAction(s string) (Action, error) {
	for a := Pass; a <= Block; a++ {
		if actionNames[a] == s {
			return a, nil
		}
	}
	return Undecided, fmt.Errorf("action %q: want pass, generalize, mask, tokenize, encrypt, remove, hold or block", s)
}

// OnMessage reports whether the action decides about the whole message: hold, block, and undecided, which blocks.
func (a Action) OnMessage() bool { return a == Hold || a == Block || a == Undecided }

// Operation is a field action with its parameters, resolved and comparable. Encrypt may wrap another action: the value
// is generalized, masked or tokenized first (Inner) and the result encrypted. The zero value is Undecided.
type Operation struct {
	Action   Action
	Inner    Action        // with Encrypt: what is done before; Undecided or Pass = nothing
	Decimals int8          // generalize a number: digits kept behind the point; -1 = not given
	Prefix   int16         // generalize text: characters kept; -1 = not given
	Bucket   time.Duration // generalize a time: rounded down to a multiple; 0 = not given
	Head     uint8         // mask: characters kept in front
	Tail     uint8         // mask: characters kept behind
	Char     rune          // mask: what replaces a character; 0 = '*'
	Domain   string        // tokenize: token domain of the configuration
	To       string        // encrypt: recipient key of the configuration
}

// PlaceKind says what part of a message a finding is about.
type PlaceKind uint8

// The kinds of places.
const (
	InvalidPlace PlaceKind = iota
	AtValue                // the value of node Place.Index
	AtKey                  // the key of node Place.Index
	AtTopic                // topic level Place.Index, from 0
	AtClient               // the client id
	AtBody                 // the body as a whole (opaque bodies, whole-message grades)
)

// Place is where in a message something was found.
type Place struct {
	Kind  PlaceKind
	Index int32
}

// Finder says who made a finding.
type Finder uint8

// The finders. A plugin's findings carry the plugin's number in Finding.Plugin.
const (
	ByNobody Finder = iota
	ByCatalog
	ByDetector
	ByPlugin
)

// Finding is one place that a category matched. It never carries the value.
type Finding struct {
	Place      Place
	Category   uint16 // index into Classifier.Categories
	Grade      Grade
	Personal   bool // 个人信息
	Sensitive  bool // 敏感个人信息
	By         Finder
	Plugin     uint8
	Confidence uint8 // percent: weak 30, medium 60, strong 90; a catalog match is 80, confirmed by a detector 95
	Pair       int32 // index of the finding on the other half of the same position, -1 for none
}

// Category is one entry of the catalogs in force (重要数据目录).
type Category struct {
	ID        string // VEH-LOC-POINT
	Name      string
	Catalog   string // name of the catalog that it comes from
	Class     string
	Grade     Grade // Ungraded for opaque and unlisted data
	Personal  bool
	Sensitive bool
	Basis     string
	Handling  string // advised default action: advice for lint and filing, never acted on
	Foreign   string // advised action towards another country
	Priority  bool   // life safety: first in line when draining
}

// Classification is everything that was found in one message. It is reused from message to message.
type Classification struct {
	Findings  []Finding
	Unknown   []int32    // leaf nodes that no match and no detector covers, in document order
	Positions []Position // values of the positions found, for filters that were granted them
}

// Datum is the reference system of a position, with the numbers of the plugin ABI.
type Datum uint32

// The datums.
const (
	UnknownDatum Datum = iota
	WGS84
	GCJ02
	BD09
)

// Position is a latitude and longitude in degrees that two findings share.
type Position struct {
	Lat, Lon         float64
	Datum            Datum
	LatFind, LonFind int32 // indices into Classification.Findings
}

// Classifier grades messages against the catalogs in force. It is immutable and safe for concurrent use.
type Classifier interface {
	// Classify appends what it finds in m and b to c, which the caller has reset. b has no nodes when the payload could
	// not be decoded; then the finding is the opaque category at AtBody. It never fails: what it does not know is Unknown.
	Classify(m *Message, b *Body, c *Classification)
	// Categories lists the categories in force; a Finding.Category is an index into it. The slice is shared.
	Categories() []Category
	// Unlisted is the index of the category that counts unknown fields and opaque bodies of this kind of message.
	Unlisted(opaque bool) uint16
}

// Reclassifier is a Classifier that grades an edited body again without repeating what cannot have changed.
type Reclassifier interface {
	// Reclassify appends to c at least every finding and unknown leaf that Classify would make and that is not already
	// settled by the body as received: b came from a body that Classify has seen by removing members and elements and by
	// replacing values; every key, every other value, the topic and the client are what they were. A leaf that was known
	// only for its neighbour, as half of a position, was ruled as that and need not be reported when the neighbour went.
	Reclassify(m *Message, b *Body, c *Classification)
}

// Reset empties c for the next message and keeps its memory.
func (c *Classification) Reset() {
	c.Findings, c.Unknown, c.Positions = c.Findings[:0], c.Unknown[:0], c.Positions[:0]
}

// Edit is one wish of a filter about one finding.
type Edit struct {
	Finding int32     // index into Classification.Findings
	Op      Operation // zero for a regrade
	Regrade Grade     // Ungraded: no regrade
}

// Opinion is what one filter says about one message. It is reused from message to message.
type Opinion struct {
	Action Action   // Pass: no objection, the policy decides; Hold; Block. The zero value blocks.
	Grade  Grade    // Ungraded: no opinion; else the least grade of every finding
	Labels []uint16 // categories (index) that the filter found on the message as a whole
	Edits  []Edit   // ordered by finding
	Reason uint16   // a code of the filter's manifest, 0 for none
	Fuel   uint64   // work done, where the filter counts it
}

// Filter judges messages: a WASM plugin or a built-in. It is safe for concurrent use and can only tighten.
type Filter interface {
	Name() string
	// Filter fills o, which the caller has reset to no objection. On an error o is void and the message takes the
	// filter's on_error path; the error's reason is a *FilterError, whose code may be counted and recorded.
	Filter(m *Message, b *Body, c *Classification, o *Opinion) error
}

// FilterError is a filter's failure, by a code that is safe for records and metrics.
type FilterError struct {
	Code string // one of FilterErrorCodes
	Err  error
}

func (e *FilterError) Error() string { return "filter " + e.Code + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *FilterError) Unwrap() error { return e.Err }

// Value is what an operator of the redactor works on: one scalar, a key or a topic level.
type Value struct {
	Kind Kind   // String for keys and topic levels
	Text []byte // decoded
}

// FieldContext is what an encryption binds a field to.
type FieldContext struct {
	ID      ID
	Pointer string // JSON pointer of the field in the outbound body
	Raw     []byte // the value as JSON, quotes included
}

// Redactor carries out field operations. It is safe for concurrent use.
type Redactor interface {
	// Apply appends the replacement of v to dst. ok is false when the operator does not fit the value (decimals on
	// text): the field is then removed. A missing key or any other failure is an error, and the message is blocked.
	Apply(dst []byte, op Operation, v Value, f FieldContext) (out []byte, as Kind, ok bool, err error)
	// Check reports whether out, as found in the outbound message, is something that op could have written: at most n
	// decimals, a token of that domain, a ciphertext of an epoch that is in force for that recipient.
	Check(op Operation, out Value) bool
}
