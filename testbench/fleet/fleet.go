// Package fleet simulates vehicles: who they are, where they drive and what they report, well-meant and otherwise.
//
// A fleet is a function of its seed: the same seed, number of vehicles and size give the same messages, byte for byte.
// All identities are synthetic: VINs with a valid check digit under the WMI LTE, plates, mobile and identity numbers
// that satisfy their public shape and check. [ISO 3779; GB 11643-1999]
//
// Every message carries a sequence number of fixed width as a plain JSON member "seq" (in bodies that are not JSON as
// the same text), by which a checker at the cloud tells what arrived. Sequence numbers begin at FirstSeq, so that all
// of them have ten digits and none can be taken for a mobile number.
//
// The package knows nothing of the gateway. What a message may become is stated as an Expectation under the reading of
// product semantics with the vehicle catalog, the category of CoreKey, and a policy that blocks core data, tokenizes
// VINs, generalizes positions and removes other personal information.
package fleet

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
)

// FirstSeq is the first sequence number of a fleet.
const FirstSeq = 1_000_000_001

// CoreKey is the key of a field that a site catalog should grade core. The vehicle catalog does not know it.
const CoreKey = "convoy_plan"

// Expectation says what must become of a message at the cloud.
type Expectation uint8

// The expectations.
const (
	Unstated Expectation = iota
	Arrives              // leaves, without its secrets
	Stays                // never leaves
)

// Kind names the sort of a message.
type Kind uint8

// The kinds.
const (
	NoKind       Kind        = iota
	Telemetry                // the regular report: VIN, position, plate, driver, speed, battery
	GNSS                     // a position alone
	Diag                     // trouble codes
	Hazard                   // a thermal event: life safety
	VINKey                   // a VIN used as an object key
	FreeText                 // a mobile number inside the text of a fault
	UnknownField             // a field that no catalog lists
	DuplicateKey             // JSON that two receivers read differently
	Opaque                   // bytes in no notation that anybody knows
	CoreField                // a field under CoreKey
	Log                      // a VIN and a long text of random letters: nothing that compresses
	lastKind     = CoreField // of those that Next mixes in
)

var kindNames = [...]string{"none", "telemetry", "gnss", "diag", "hazard", "vin as key", "phone in text", "unknown field",
	"duplicate key", "opaque body", "core field", "log"}

// String returns the kind in words.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Position is a place on the road in degrees of WGS-84, to six decimals of which the last is never zero.
type Position struct{ Lat, Lon float64 }

// Message is one message of one vehicle. The caller owns it.
type Message struct {
	Seq      uint64
	Kind     Kind
	Client   string // client identifier of the vehicle
	Topic    string
	Payload  []byte
	Secrets  []string    // values inside that must not leave as they are, as text; never empty strings
	Position *Position   // where the vehicle was, if the message says so
	Inside   bool        // the position is inside one of Areas
	Expect   Expectation //
}

// Fleet is a number of vehicles under way. It is not safe for concurrent use.
type Fleet struct {
	rng      *rand.Rand
	vehicles []*vehicle
	size     int
	seq      uint64
	next     int
}

// New returns a fleet of the given number of vehicles (at least one) whose JSON bodies are padded with cell voltages to
// about size bytes; 0 leaves them at their natural 200 to 320 bytes.
func New(seed uint64, vehicles, size int) *Fleet {
	f := &Fleet{rng: rand.New(rand.NewPCG(seed, 0x536c75696365)), size: size, seq: FirstSeq}
	for i := range max(vehicles, 1) {
		f.vehicles = append(f.vehicles, newVehicle(f.rng, i))
	}
	return f
}

// Next returns the next message of the next vehicle: mostly telemetry and positions, now and then a diagnosis, and one
// in thirteen something that a gate must not be fooled by.
func (f *Fleet) Next() Message {
	kind := Telemetry
	switch n := f.rng.IntN(100); {
	case n < 24:
		kind = GNSS
	case n < 32:
		kind = Diag
	case n < 34:
		kind = Hazard
	case n < 40:
		kind = VINKey + Kind(f.rng.IntN(int(lastKind-VINKey)+1))
	}
	return f.Of(kind)
}

// Of returns the next message of the next vehicle, of the given kind.
func (f *Fleet) Of(kind Kind) Message {
	v := f.vehicles[f.next]
	f.next = (f.next + 1) % len(f.vehicles)
	v.drive(f.rng)
	m := Message{Seq: f.seq, Kind: kind, Client: v.client, Expect: Arrives}
	f.seq++
	f.write(&m, v)
	return m
}

// Clients returns the client identifiers of the vehicles.
func (f *Fleet) Clients() []string {
	var names []string
	for _, v := range f.vehicles {
		names = append(names, v.client)
	}
	return names
}

// cities are where the vehicles drive: the centre of each, in degrees.
var cities = []Position{
	{39.90923, 116.397428}, // Beijing
	{31.2304, 121.4737},    // Shanghai
	{23.1291, 113.2644},    // Guangzhou
	{43.8256, 87.6168},     // Urumqi
	{45.8038, 126.5349},    // Harbin
}

// Area is a rectangle in degrees that a site would guard.
type Area struct {
	Name                     string
	South, West, North, East float64
}

// Areas lists one guarded rectangle per city, about 4 km wide and 5 km off the centre, which trips cross now and then.
func Areas() []Area {
	var areas []Area
	for i, c := range cities {
		areas = append(areas, Area{
			Name:  "site-" + strconv.Itoa(i+1),
			South: round6(c.Lat + 0.03), North: round6(c.Lat + 0.07), West: round6(c.Lon + 0.03), East: round6(c.Lon + 0.08),
		})
	}
	return areas
}

func round6(v float64) float64 { return math.Round(v*1e6) / 1e6 }

// Contains reports whether p lies in the area, its border included.
func (a Area) Contains(p Position) bool {
	return p.Lat >= a.South && p.Lat <= a.North && p.Lon >= a.West && p.Lon <= a.East
}

var areas = Areas()

func inside(p Position) bool {
	for _, a := range areas {
		if a.Contains(p) {
			return true
		}
	}
	return false
}
