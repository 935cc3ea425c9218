// Conformance does what the topic of a message says, for the vectors of plugins/conformance. The words are described there.
package main

import (
	"bytes"
	"errors"
	"math"

	sluice "github.com/sluice-edge/sluice/plugins/guest/go"
)

func init() {
	sluice.Main(filter)
	sluice.Configure(configure)
}

func main() {}

// words is what is left of a command.
type words struct {
	s   []byte
	bad bool
}

func (w *words) word(text string) bool {
	if len(w.s) < len(text) || string(w.s[:len(text)]) != text {
		return false
	}
	w.s = w.s[len(text):]
	return true
}

func (w *words) number() (n uint32) {
	from := len(w.s)
	for len(w.s) > 0 && w.s[0] >= '0' && w.s[0] <= '9' {
		n = 10*n + uint32(w.s[0]-'0')
		w.s = w.s[1:]
	}
	w.bad = w.bad || len(w.s) == from
	return n
}

// argument is " N".
func (w *words) argument() uint32 {
	if !w.word(" ") {
		w.bad = true
	}
	return w.number()
}

// bounded: nothing is repeated more often; whoever damages a number gets an answer, no endless loop.
func (w *words) bounded(n uint32) { w.bad = w.bad || n > 8192 }

type op int

const (
	mask op = iota
	generalize
	tokenize
	encrypt
	replace
	remove
	regrade
)

var replacement [512]byte

func edit(v *sluice.Verdict, t sluice.Target, o op, a, b uint32) {
	switch o {
	case mask:
		v.Mask(t, a)
	case generalize:
		v.Generalize(t, a)
	case tokenize:
		v.Tokenize(t, a)
	case encrypt:
		v.Encrypt(t, a)
	case replace:
		with := replacement[:min(a, 512)]
		for i := range with {
			with[i] = byte(b)
		}
		v.Replace(t, with)
	case remove:
		v.Remove(t)
	case regrade:
		v.Regrade(t, uint8(a))
	}
}

// edits is " N", " N..M", " OFF+LEN" or " OFF+LENxCOUNT", and what the operation takes.
func edits(w *words, v *sluice.Verdict, o op) {
	from := w.argument()
	to, ranged, length, count := from, false, uint32(0), uint32(1)
	if w.word("..") {
		to = w.number()
	} else if w.word("+") {
		ranged, length = true, w.number()
		if w.word("x") {
			count = w.number()
		}
	}
	var a, b uint32
	if o != remove {
		a = w.argument()
	}
	if o == replace {
		b = w.argument()
	}
	if ranged {
		w.bounded(count)
	} else {
		w.bounded(max(from, to) - min(from, to))
	}
	if w.bad {
		return
	}
	if ranged {
		for i := range count {
			edit(v, sluice.Range(from+i*length, length), o, a, b)
		}
		return
	}
	for ; ; from += step(from, to) {
		edit(v, sluice.FindingTarget(int(from)), o, a, b)
		if from == to {
			return
		}
	}
}

func step(from, to uint32) uint32 {
	if from < to {
		return 1
	}
	return math.MaxUint32
}

// sum is FNV-1a.
type sum uint32

func (h *sum) bytes(b []byte) {
	h.number(uint64(len(b)), 4)
	for _, c := range b {
		h.number(uint64(c), 1)
	}
}

func (h *sum) number(n uint64, size int) {
	for range size {
		*h = (*h ^ sum(byte(n))) * 16777619
		n >>= 8
	}
}

// sumAll makes one number of everything that the readers give: reason and label of the verdict.
func sumAll(r *sluice.Request, v *sluice.Verdict) {
	h := sum(2166136261)
	h.number(r.MsgID, 8)
	h.number(uint64(r.TimeMS), 8)
	h.number(uint64(r.Protocol), 1)
	h.number(uint64(r.Encoding), 1)
	h.number(uint64(r.Grade), 1)
	h.number(uint64(r.Flags), 1)
	h.number(uint64(r.PayloadLen), 4)
	h.bytes(r.Topic)
	h.bytes(r.Source)
	h.number(uint64(r.LabelsLen()), 4)
	for l := range r.Labels() {
		h.number(uint64(l), 2)
	}
	h.number(uint64(r.FindingsLen()), 4)
	for f := range r.Findings() {
		h.number(uint64(f.Off), 4)
		h.number(uint64(f.Len), 4)
		h.number(uint64(f.Label), 2)
		h.number(uint64(f.Kind), 1)
		h.number(uint64(f.Confidence), 1)
		h.number(uint64(f.Grade), 1)
		h.number(uint64(f.Flags), 1)
		h.bytes(f.Key)
		h.bytes(f.Value)
		if at, ok := f.Position(); ok {
			h.number(math.Float64bits(at.Lat), 8)
			h.number(math.Float64bits(at.Lon), 8)
			h.number(uint64(at.Datum), 4)
		}
	}
	h.bytes(r.Payload())
	v.Reason(uint16(h))
	v.Label(uint16(1 + (h>>16)%65535))
}

func command(w *words, r *sluice.Request, v *sluice.Verdict) {
	switch {
	case w.word("none"):
		v.None()
	case w.word("sum"):
		sumAll(r, v)
	case w.word("block"):
		v.Block(uint16(w.argument()))
	case w.word("hold"):
		v.Hold(uint16(w.argument()))
	case w.word("reason"):
		v.Reason(uint16(w.argument()))
	case w.word("grade"):
		v.Grade(uint8(w.argument()))
	case w.word("label"):
		labels(w, v)
	case w.word("mask"):
		edits(w, v, mask)
	case w.word("generalize"):
		edits(w, v, generalize)
	case w.word("tokenize"):
		edits(w, v, tokenize)
	case w.word("encrypt"):
		edits(w, v, encrypt)
	case w.word("replace"):
		edits(w, v, replace)
	case w.word("remove"):
		edits(w, v, remove)
	case w.word("regrade"):
		edits(w, v, regrade)
	case w.word("fail"):
		v.Fail()
	case w.word("trap"):
		panic("as told")
	default:
		w.bad = true
	}
}

func labels(w *words, v *sluice.Verdict) {
	from := w.argument()
	to := from
	if w.word("..") {
		to = w.number()
	}
	if w.bounded(to - from); w.bad {
		return
	}
	for l := uint64(from); l <= uint64(to); l++ {
		v.Label(uint16(l))
	}
}

func filter(r *sluice.Request, v *sluice.Verdict) {
	w := words{s: r.Topic}
	for len(w.s) > 0 && w.s[0] != '#' && !w.bad {
		command(&w, r, v)
		if len(w.s) > 0 && w.s[0] != '#' && !w.word(";") {
			w.bad = true
		}
	}
	if w.bad {
		v.Fail()
	}
}

// configure refuses {"refuse": …} and accepts everything else.
func configure(json []byte) error {
	if bytes.Contains(json, []byte("refuse")) {
		return errors.New("refused, as told")
	}
	return nil
}
