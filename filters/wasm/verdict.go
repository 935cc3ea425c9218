package wasm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-edge/sluice/gateway"
)

// Sizes and bounds of the verdict record.
const (
	verdictLen       = 16
	editLen          = 16
	maxVerdictEdits  = 4096
	maxVerdictLabels = 64
)

// Operations of an edit.
const (
	opMask       = 1
	opGeneralize = 2
	opTokenize   = 3
	opEncrypt    = 4
	opReplace    = 5
	opRemove     = 6
	opRegrade    = 7
)

// Targets of an edit.
const (
	targetFinding = 0
	targetRange   = 1
)

// actionOf maps the operations that take a profile to the action that the profile must have.
var actionOf = [...]gateway.Action{opMask: gateway.Mask, opGeneralize: gateway.Generalize, opTokenize: gateway.Tokenize, opEncrypt: gateway.Encrypt}

// judge checks verdicts of one plugin and turns them into opinions.
type judge struct {
	view       *view
	categories []int32   // label - 1 → category, -1 when the catalogs in force do not have it
	reasons    []uint16  // sorted
	profiles   []profile // ordered by id
}

// verdictError is a rule that a verdict broke. Its text never holds a value.
type verdictError string

func (e verdictError) Error() string { return "verdict: " + string(e) }

// read checks v, which is a whole verdict as the plugin returned it, and fills o. All rules hold or none of o counts.
func (j *judge) read(v []byte, s *scratch, b *gateway.Body, c *gateway.Classification, o *gateway.Opinion) error {
	if len(v) < verdictLen || uint64(le.Uint32(v)) != uint64(len(v)) {
		return verdictError("length field and returned length differ")
	}
	edits, labels := int(le.Uint16(v[8:])), int(le.Uint16(v[10:]))
	action, grade, reason := v[6], v[7], le.Uint16(v[12:])
	switch {
	case le.Uint16(v[4:]) != 1:
		return verdictError("version is not 1")
	case action < 1 || action > 3:
		return verdictError("unknown action")
	case grade > uint8(gateway.Core):
		return verdictError("unknown grade")
	case le.Uint16(v[14:]) != 0:
		return verdictError("flags are not zero")
	case edits > maxVerdictEdits || labels > maxVerdictLabels:
		return verdictError("too many edits or labels")
	case len(v) != verdictLen+editLen*edits+(2*labels+7)&^7: // replace is never granted, so the pool is empty
		return verdictError("counts do not add up to the length")
	}
	if _, known := slices.BinarySearch(j.reasons, reason); reason != 0 && !known {
		return verdictError("reason is not in the manifest")
	}
	o.Action = [...]gateway.Action{1: gateway.Pass, 2: gateway.Hold, 3: gateway.Block}[action]
	o.Grade, o.Reason = gateway.Grade(grade), reason
	if err := j.readLabels(v[verdictLen+editLen*edits:], labels, o); err != nil {
		return err
	}
	return j.readEdits(v[verdictLen:verdictLen+editLen*edits], s, b, c, o)
}

// readLabels reads the labels of the whole message; what pads them is zero.
func (j *judge) readLabels(v []byte, n int, o *gateway.Opinion) error {
	var seen [maxLabels/64 + 1]uint64
	for i := range len(v) / 2 {
		l := le.Uint16(v[2*i:])
		switch {
		case i >= n && l != 0:
			return verdictError("padding is not zero")
		case i >= n:
			continue
		case l == 0 || int(l) > len(j.categories) || j.categories[l-1] < 0:
			return verdictError("label is not in the manifest or not in the catalogs")
		case seen[l/64]&(1<<(l%64)) != 0:
			return verdictError("label stands twice")
		}
		seen[l/64] |= 1 << (l % 64)
		o.Labels = append(o.Labels, uint16(j.categories[l-1]))
	}
	return nil
}

// readEdits reads edits in their order: findings by index, then ranges by offset; one edit for each finding.
func (j *judge) readEdits(v []byte, s *scratch, b *gateway.Body, c *gateway.Classification, o *gateway.Opinion) error {
	var last uint64 // end of the edit before, in the order of targets
	node := 0       // ranges rise, and so do nodes
	for ; len(v) > 0; v = v[editLen:] {
		target, op, label := v[0], v[1], le.Uint16(v[2:])
		from, n, param := le.Uint32(v[4:]), le.Uint32(v[8:]), le.Uint32(v[12:])
		if target > targetRange || int(label) > len(j.categories) || (label != 0 && j.categories[label-1] < 0) {
			return verdictError("unknown target or label of an edit")
		}
		finding, length := int32(0), uint64(1)
		if target == targetRange {
			if length = uint64(n); !j.view.payload {
				return verdictError("edit of a range without read.payload")
			}
			if n == 0 || uint64(from)+uint64(n) > uint64(len(b.Raw)) {
				return verdictError("range is empty or outside of the payload")
			}
		} else if n != 0 || uint64(from) >= uint64(len(c.Findings)) {
			return verdictError("edit of a finding that is not there")
		}
		at := uint64(target)<<33 | uint64(from)
		if at < last {
			return verdictError("edits are unsorted or overlap")
		}
		last = at + length
		if finding = int32(from); target == targetRange {
			if finding = s.findingAt(b, c, from, n, &node); finding < 0 {
				return verdictError("range is not within one finding's value")
			}
		}
		if j.view.labelOf(c.Findings[finding].Category) == 0 {
			return verdictError("edit of a finding whose category is not in the manifest")
		}
		if k := len(o.Edits); k < cap(o.Edits) {
			o.Edits = o.Edits[:k+1]
		} else {
			o.Edits = append(o.Edits, gateway.Edit{})
		}
		if err := j.edit(&o.Edits[len(o.Edits)-1], finding, op, param); err != nil {
			return err
		}
	}
	return sortEdits(o.Edits)
}

// removal is the operation of a remove.
var removal = gateway.Operation{Action: gateway.Remove, Decimals: -1, Prefix: -1}

// edit resolves the operation of an edit from the operator's list, and fills in all of e. An operation is large: it is copied
// once.
func (j *judge) edit(e *gateway.Edit, finding int32, op uint8, param uint32) error {
	e.Finding, e.Regrade = finding, gateway.Ungraded
	switch op {
	case opMask, opGeneralize, opTokenize, opEncrypt:
		for i := range j.profiles { // a handful, ordered by id
			if p := &j.profiles[i]; p.id == param && p.op.Action == actionOf[op] {
				e.Op = p.op
				return nil
			} else if p.id >= param {
				break
			}
		}
		return verdictError("parameter is not in the operator's edits, or for another operation")
	case opReplace:
		return verdictError("replace is not granted")
	case opRemove:
		if param != 0 {
			return verdictError("remove with a parameter")
		}
		e.Op = removal
		return nil
	case opRegrade:
		if param < uint32(gateway.General) || param > uint32(gateway.Core) {
			return verdictError("unknown grade of a regrade")
		}
		e.Op, e.Regrade = gateway.Operation{}, gateway.Grade(param)
		return nil
	}
	return verdictError("unknown operation")
}

// findingAt returns the first finding on the scalar whose bytes hold the range, -1 for none. node is where the search
// goes on: ranges come in rising order.
func (s *scratch) findingAt(b *gateway.Body, c *gateway.Classification, from, n uint32, node *int) int32 {
	if *node == 0 { // first range of this verdict
		if cap(s.byNode) < len(b.Nodes) {
			s.byNode = make([]int32, len(b.Nodes))
		}
		s.byNode = s.byNode[:len(b.Nodes)]
		clear(s.byNode)
		for i := len(c.Findings) - 1; i >= 0; i-- {
			if p := c.Findings[i].Place; p.Kind == gateway.AtValue {
				s.byNode[p.Index] = int32(i) + 1
			}
		}
	}
	for ; *node < len(b.Nodes); *node++ {
		nd := &b.Nodes[*node]
		if nd.Kind.Container() || uint32(nd.Value.End()) <= from {
			continue
		}
		if uint32(nd.Value.Off) > from || uint32(nd.Value.End()) < from+n {
			return -1
		}
		return s.byNode[*node] - 1
	}
	return -1
}

// sortEdits orders edits by finding; two edits of one finding are an error.
func sortEdits(edits []gateway.Edit) error {
	for i := 1; i < len(edits); i++ {
		if edits[i].Finding < edits[i-1].Finding { // ranges came behind findings
			slices.SortFunc(edits, func(a, b gateway.Edit) int { return int(a.Finding - b.Finding) })
			break
		}
	}
	for i := 1; i < len(edits); i++ {
		if edits[i].Finding == edits[i-1].Finding {
			return verdictError("two edits of one finding")
		}
	}
	return nil
}

// Codes of a FilterError.
const (
	codeTrap     = "trap"
	codeFuel     = "fuel"
	codeDepth    = "depth"
	codeMemory   = "memory"
	codeRefused  = "refused"
	codeTooLarge = "too_large"
	codeNegative = "negative"
	codeClosed   = "closed"
)

var (
	errClosed   = errors.New("plugin is closed")
	errFuel     = errors.New("out of fuel")
	errDepth    = errors.New("calls are nested too deep")
	errMemory   = errors.New("more memory than its limit")
	errTooLarge = errors.New("message does not fit the plugin's in region")
	errLength   = errors.New("returned length is outside of the out region")
	errProtocol = errors.New("message's protocol is not in the plugin's manifest")
	errPanic    = errors.New("the call broke off inside the host")
)

// negative is the error for a negative return.
func negative(code int32) error {
	switch code {
	case -1:
		return errors.New("plugin says: malformed request")
	case -2:
		return errors.New("plugin says: version not supported")
	case -3:
		return errors.New("plugin says: out region too small")
	case -4:
		return errors.New("plugin says: internal error")
	}
	return fmt.Errorf("plugin returned %d", code)
}
