package fleet

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// write fills in the topic, payload, secrets and expectation of m for its kind.
func (f *Fleet) write(m *Message, v *vehicle) {
	b := body{b: fmt.Appendf(nil, `{"seq":%d,"ts":%d`, m.Seq, v.clock)}
	leaf := "telemetry"
	switch m.Kind {
	case GNSS:
		leaf = "gnss/point"
		b.position(m, v)
		b.add(`,"speed":%.1f`, v.speed)
	case Diag:
		leaf = "diag"
		b.add(`,"vin":"%s","dtc":["P0A80","U0100"],"pad_wear":%d`, m.secret(v.vin), 10+f.rng.IntN(80))
	case Hazard:
		b.add(`,"vin":"%s","thermal_runaway":true,"fire":false,"soc":%.1f`, m.secret(v.vin), v.soc)
	case VINKey:
		b.add(`,"vehicles":{"%s":{"speed":%.1f,"soc":%.1f}}`, m.secret(v.vin), v.speed, v.soc)
	case FreeText:
		leaf = "diag"
		b.add(`,"soc":%.1f,"fault":"driver asks for a call back under %s today"`, v.soc, m.secret(v.phone))
	case UnknownField:
		b.add(`,"speed":%.1f,"xq_17":"%s"`, v.speed, m.secret(f.text("zq", 24)))
	case DuplicateKey:
		b.add(`,"soc":%.1f,"soc":%.1f,"vin":"%s"`, v.soc, v.soc/2, m.secret(v.vin))
		m.Expect = Stays
	case Opaque:
		m.Topic, m.Payload, m.Expect = "v1/"+v.client+"/trace", f.opaque(m, v), Stays
		return
	case CoreField:
		leaf = "ops"
		b.add(`,"soc":%.1f,"%s":"%s"`, v.soc, CoreKey, m.secret(f.text("route", 20)))
		m.Expect = Stays
	case Log:
		leaf = "diag"
		b.add(`,"vin":"%s","fault":"`, m.secret(v.vin))
		b.b = f.noise(b.b, max(f.size-len(b.b)-2, 0))
		m.Topic, m.Payload = "v1/"+v.client+"/"+leaf, append(b.b, `"}`...)
		return
	default:
		f.telemetry(m, v, &b)
	}
	b.pad(f, f.size)
	m.Topic, m.Payload = "v1/"+v.client+"/"+leaf, append(b.b, '}')
}

// telemetry writes the regular report.
func (f *Fleet) telemetry(m *Message, v *vehicle, b *body) {
	b.add(`,"vin":"%s","speed":%.1f,"soc":%.1f,"odometer":%.1f`, m.secret(v.vin), v.speed, v.soc, v.odometer)
	b.b = append(b.b, `,"position":{`...)
	at := len(b.b)
	b.position(m, v)
	b.b = append(b.b[:at], b.b[at+1:]...) // the first member has no comma
	b.add(`},"plate":"%s","driver":{"driver_name":"%s","phone":"%s","id_card":"%s"}`, m.secret(v.plate), m.secret(v.driver), m.secret(v.phone), m.secret(v.idCard))
}

// opaque writes a frame in no known notation, with the sequence number and the VIN in it.
func (f *Fleet) opaque(m *Message, v *vehicle) []byte {
	b := []byte{0x00, 0x17, 0xFF, 0x80}
	b = fmt.Appendf(b, `"seq":%d`, m.Seq)
	b = append(append(b, 0), m.secret(v.vin)...)
	for len(b) < max(f.size, 64) {
		b = binary.LittleEndian.AppendUint32(b, f.rng.Uint32())
	}
	return b
}

// secret notes that a value must not leave as it is and returns it.
func (m *Message) secret(s string) string {
	m.Secrets = append(m.Secrets, s)
	return s
}

// text makes a word that occurs nowhere else.
func (f *Fleet) text(prefix string, n int) string {
	const letters = "bcdfghjkmnpqrstvwxyz"
	b := []byte(prefix)
	for len(b) < n {
		b = append(b, letters[f.rng.IntN(len(letters))])
	}
	return string(b)
}

// noise appends n random letters in words: as much as a text can vary that no detector takes for a number or a name.
func (f *Fleet) noise(b []byte, n int) []byte {
	const letters, word = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", 12
	for i := range n {
		if i%word == word-1 {
			b = append(b, ' ')
		} else {
			b = append(b, letters[f.rng.IntN(len(letters))])
		}
	}
	return b
}

// body is a JSON object in the making, without its closing brace.
type body struct{ b []byte }

func (b *body) add(format string, args ...any) { b.b = fmt.Appendf(b.b, format, args...) }

func (b *body) position(m *Message, v *vehicle) {
	p := v.position()
	m.Position, m.Inside = &p, inside(p)
	b.add(`,"lat":%s,"lon":%s`, m.secret(degrees(p.Lat)), m.secret(degrees(p.Lon)))
}

// Bounds of pad.
const (
	padCells  = 8  // cell voltages of one module
	padMember = 80 // most bytes of one signal
)

// signals are names of the COVESA vehicle signal specification with the least and the greatest value, in order of use.
// The verb takes the number of the part, from 1.
var signals = []struct {
	name     string
	from, to int
}{
	{"Vehicle.Powertrain.ElectricMotor.M%d.Speed", 1000, 9000},
	{"Vehicle.Powertrain.ElectricMotor.M%d.Torque", 10, 300},
	{"Vehicle.Powertrain.ElectricMotor.M%d.Temperature", 20, 120},
	{"Vehicle.Powertrain.TractionBattery.CellVoltage.Module%d", 300, 420},
	{"Vehicle.Chassis.Axle.Row%d.Wheel.Left.Tire.Pressure", 220, 260},
	{"Vehicle.Chassis.Axle.Row%d.Wheel.Right.Tire.Pressure", 220, 260},
}

// pad makes the object about size bytes long with what a telemetry unit reports beside the rest: the cells of one battery
// module, then signals by their full names, and temperatures of as many probes as fit. That is about 40 leaves in 1 KB,
// counting the report itself.
func (b *body) pad(f *Fleet, size int) {
	const head, tail = `,"cell_temp":[23,24,23],"cell_voltage":[`, 2 // closing bracket and brace
	if len(b.b)+len(head)+4+tail > size {
		return
	}
	b.b = append(b.b, head...)
	for n := 0; n == 0 || n < padCells && len(b.b)+5+tail <= size; n++ {
		if n > 0 {
			b.b = append(b.b, ',')
		}
		b.b = strconv.AppendInt(b.b, int64(3600+f.rng.IntN(400)), 10)
	}
	b.b = append(b.b, ']')
	for n := 0; len(b.b)+padMember+tail <= size; n++ {
		s := &signals[n%len(signals)]
		b.b = append(fmt.Appendf(append(b.b, `,"`...), s.name, n/len(signals)+1), `":`...)
		b.b = strconv.AppendInt(b.b, int64(s.from+f.rng.IntN(s.to-s.from)), 10)
	}
	const probes = `,"probe_temp":[`
	if len(b.b)+len(probes)+2+tail <= size {
		b.b = append(append(b.b, probes...), "21"...)
		for len(b.b)+3+tail <= size {
			b.b = strconv.AppendInt(append(b.b, ','), int64(20+f.rng.IntN(20)), 10)
		}
		b.b = append(b.b, ']')
	}
}
