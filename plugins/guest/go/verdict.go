package sluice

import "slices"

// Verdict is the verdict under construction. Edits grow from the front of the out region, replacements from its end.
type Verdict struct {
	out      []byte
	action   uint8
	grade    uint8
	reason   uint16
	mistake  int32
	edits    int
	pool     int
	labels   int
	label    [maxLabels]uint16
	findings uint32
	payload  uint32 // length of what ranges may be about
}

// start makes an empty verdict.
func (v *Verdict) start(r *Request, out []byte) {
	*v = Verdict{out: out, action: 1, findings: uint32(r.FindingsLen())}
	if r.present {
		v.payload = r.PayloadLen
	}
}

func (v *Verdict) fails(code int32) {
	if v.mistake == 0 {
		v.mistake = code
	}
}

// None leaves the message to the policy: how a verdict starts, and what it stays when nothing is added. It takes nothing
// back.
func (v *Verdict) None() {}

// Block keeps the message here, for a reason of the manifest (0 = none); the first call gives the reason.
func (v *Verdict) Block(reason uint16) {
	if v.action < 3 {
		v.action, v.reason = 3, reason
	}
}

// Hold lets the message wait for a person; block beats hold, and the first call gives the reason.
func (v *Verdict) Hold(reason uint16) {
	if v.action < 2 {
		v.action, v.reason = 2, reason
	}
}

// Reason says why, also without an objection: a code of the manifest's reasons.
func (v *Verdict) Reason(code uint16) { v.reason = code }

// Grade is the least grade of everything in the message; the highest call wins.
func (v *Verdict) Grade(grade uint8) {
	if grade < General || grade > Core {
		v.fails(internal)
		return
	}
	v.grade = max(v.grade, grade)
}

// Label puts a category of the manifest on the message as a whole, once.
func (v *Verdict) Label(label uint16) {
	switch {
	case slices.Contains(v.label[:v.labels], label):
	case label == 0 || v.labels == maxLabels:
		v.fails(internal)
	default:
		v.label[v.labels] = label
		v.labels++
	}
}

// room reports whether n more bytes of edits or replacements fit.
func (v *Verdict) room(n int) bool { return verdictLen+editLen*v.edits+v.pool+n <= len(v.out) }

func (v *Verdict) edit(t Target, op uint8, param uint32) bool {
	there := t.a < v.findings
	if t.kind != 0 {
		there = t.b > 0 && uint64(t.a)+uint64(t.b) <= uint64(v.payload)
	}
	if !there {
		v.fails(internal)
		return false
	}
	if v.edits == maxEdits || !v.room(editLen) {
		v.fails(tooSmall)
		return false
	}
	e := v.at(v.edits)
	e[0], e[1], e[2], e[3] = t.kind, op, 0, 0
	le.PutUint32(e[4:], t.a)
	le.PutUint32(e[8:], t.b)
	le.PutUint32(e[12:], param)
	v.edits++
	return true
}

// at is the memory of edit i.
func (v *Verdict) at(i int) []byte { return v.out[verdictLen+editLen*i:][:editLen] }

// Mask makes the edit of the operator's list with this id.
func (v *Verdict) Mask(t Target, profile uint32) { v.edit(t, 1, profile) }

// Generalize makes the edit of the operator's list with this id.
func (v *Verdict) Generalize(t Target, profile uint32) { v.edit(t, 2, profile) }

// Tokenize makes the edit of the operator's list with this id.
func (v *Verdict) Tokenize(t Target, domain uint32) { v.edit(t, 3, domain) }

// Encrypt makes the edit of the operator's list with this id.
func (v *Verdict) Encrypt(t Target, slot uint32) { v.edit(t, 4, slot) }

// Replace puts other bytes in place, at most 256; it needs the grant replace.
func (v *Verdict) Replace(t Target, with []byte) {
	if len(with) > maxReplacement {
		v.fails(internal)
		return
	}
	if !v.edit(t, 5, uint32(v.pool)) {
		return
	}
	if !v.room(2 + len(with)) {
		v.edits--
		v.fails(tooSmall)
		return
	}
	end := len(v.out) - v.pool // back to front until finish turns it
	v.out[end-1], v.out[end-2] = byte(len(with)), byte(len(with)>>8)
	for i, b := range with {
		v.out[end-3-i] = b
	}
	v.pool += 2 + len(with)
}

// Remove takes the field out of the message.
func (v *Verdict) Remove(t Target) { v.edit(t, 6, 0) }

// Regrade raises the grade of one finding; the policy then acts on it.
func (v *Verdict) Regrade(t Target, grade uint8) {
	if grade < General || grade > Core {
		v.fails(internal)
		return
	}
	v.edit(t, 7, uint32(grade))
}

// Fail makes the whole message an error of this plugin: it takes the operator's on_error path.
func (v *Verdict) Fail() { v.fails(internal) }

// key is the place of edit i in the order of targets: findings by index, then ranges by offset.
func (v *Verdict) key(i int) uint64 {
	e := v.at(i)
	return uint64(e[0])<<32 | uint64(le.Uint32(e[4:]))
}

// gaps of the Shell sort.
var gaps = [...]int{1750, 701, 301, 132, 57, 23, 10, 4, 1}

func (v *Verdict) sort() {
	sorted := 1
	for sorted < v.edits && v.key(sorted-1) <= v.key(sorted) {
		sorted++
	}
	if sorted >= v.edits { // a filter that walks the findings gives them in order
		return
	}
	for _, gap := range gaps {
		for i := gap; i < v.edits; i++ {
			e, key, j := [editLen]byte(v.at(i)), v.key(i), i
			for ; j >= gap && v.key(j-gap) > key; j -= gap {
				copy(v.at(j), v.at(j-gap))
			}
			copy(v.at(j), e[:])
		}
	}
}

// finish sorts the edits, refuses overlaps, and writes header, labels and replacements: the length, or an error.
func (v *Verdict) finish() int32 {
	labelsAt := verdictLen + editLen*v.edits
	poolAt := labelsAt + (2*v.labels+7)&^7
	length := poolAt + (v.pool+7)&^7
	if v.mistake != 0 {
		return v.mistake
	}
	if length > len(v.out) {
		return tooSmall
	}
	v.sort()
	for i := 1; i < v.edits; i++ {
		long := uint64(1)
		if e := v.at(i - 1); e[0] != 0 {
			long = uint64(le.Uint32(e[8:]))
		}
		if v.at(i)[0] == v.at(i - 1)[0] && v.key(i) < v.key(i-1)+long {
			return internal
		}
	}
	pool := v.out[len(v.out)-v.pool:]
	slices.Reverse(pool)
	copy(v.out[poolAt:], pool)
	clear(v.out[poolAt+v.pool : length])
	clear(v.out[labelsAt:poolAt])
	for i, l := range v.label[:v.labels] {
		le.PutUint16(v.out[labelsAt+2*i:], l)
	}
	le.PutUint32(v.out, uint32(length))
	le.PutUint16(v.out[4:], 1)
	v.out[6], v.out[7] = v.action, v.grade
	le.PutUint16(v.out[8:], uint16(v.edits))
	le.PutUint16(v.out[10:], uint16(v.labels))
	le.PutUint16(v.out[12:], v.reason)
	le.PutUint16(v.out[14:], 0)
	return int32(length)
}
