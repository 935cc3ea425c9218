package gateway

import (
	"math"
	"time"
)

// strictness orders actions for summaries and for the choice between message actions: undecided is block.
func (a Action) strictness() int {
	if a == Undecided {
		return int(Block)
	}
	return int(a)
}

// Stricter returns the stricter of two actions; undecided counts as block.
func Stricter(a, b Action) Action {
	if a.strictness() >= b.strictness() {
		return a
	}
	return b
}

// LetsOut reports whether something of the value leaves under this action. What is removed, held or blocked stays.
func (a Action) LetsOut() bool { return a >= Pass && a <= Encrypt }

// Merge joins two operations on one field as product semantics demand; it is commutative, associative and idempotent,
// so that neither the order of findings nor that of plugins matters. Message actions win as they are: block, which the
// undecided is, over hold over fields. Remove beats every other field action; encrypt wraps the merge of what lies
// below; tokenize over mask over generalize over pass; the same operator twice leaves less: fewer decimals, a shorter
// prefix, fewer characters, a bucket that both divide. Other recipients and other token domains are removed;
// generalizations with other parameters make one without parameters, which fits no value and is removed for that.
func Merge(a, b Operation) Operation {
	a, b = a.canonical(), b.canonical()
	if a.Action.OnMessage() || b.Action.OnMessage() || a.Action == Remove || b.Action == Remove {
		return plain(Stricter(a.Action, b.Action))
	}
	if a.Action == Encrypt || b.Action == Encrypt {
		return mergeEncrypt(a, b)
	}
	switch {
	case a.Action > b.Action:
		return a
	case a.Action < b.Action:
		return b
	}
	return mergeSame(a, b)
}

// plain is an operation without parameters.
func plain(a Action) Operation { return Operation{Action: a, Decimals: -1, Prefix: -1} }

// normal writes the undecided as the block that it is.
func normal(a Action) Action {
	if a == Undecided {
		return Block
	}
	return a
}

// canonical returns the operation without the parameters that its action does not use, so that operations that do the
// same are equal.
func (o Operation) canonical() Operation {
	c := plain(normal(o.Action))
	act := c.Action
	if act == Encrypt {
		c.To = o.To
		if act = o.Inner; act == Pass {
			act = Undecided
		}
		c.Inner = act
	}
	switch act {
	case Generalize:
		c.Decimals, c.Prefix, c.Bucket = max(o.Decimals, -1), max(o.Prefix, -1), max(o.Bucket, 0)
	case Mask:
		c.Head, c.Tail = o.Head, o.Tail
		if o.Char != '*' {
			c.Char = o.Char
		}
	case Tokenize:
		c.Domain = o.Domain
	}
	return c
}

// mergeEncrypt joins two operations of which at least one encrypts.
func mergeEncrypt(a, b Operation) Operation {
	to := a.To
	if a.Action != Encrypt {
		to = b.To
	} else if b.Action == Encrypt && b.To != a.To {
		return plain(Remove)
	}
	inner := Merge(a.below(), b.below())
	if !inner.Action.LetsOut() {
		return plain(inner.Action)
	}
	inner.Inner, inner.Action, inner.To = inner.Action, Encrypt, to
	return inner.canonical()
}

// below is the operation inside an encryption, or the operation itself.
func (o Operation) below() Operation {
	if o.Action != Encrypt {
		return o
	}
	o.Action, o.Inner, o.To = o.Inner, Undecided, ""
	if o.Action == Undecided {
		o.Action = Pass
	}
	return o
}

// mergeSame joins two operations with the same plain field action.
func mergeSame(a, b Operation) Operation {
	switch a.Action {
	case Tokenize:
		if a.Domain != b.Domain {
			return plain(Remove)
		}
	case Mask:
		a.Head, a.Tail = min(a.Head, b.Head), min(a.Tail, b.Tail)
		if b.maskChar() < a.maskChar() {
			a.Char = b.Char
		}
	case Generalize:
		if (a.Decimals < 0) != (b.Decimals < 0) || (a.Prefix < 0) != (b.Prefix < 0) || (a.Bucket == 0) != (b.Bucket == 0) {
			return plain(Generalize)
		}
		a.Decimals, a.Prefix = min(a.Decimals, b.Decimals), min(a.Prefix, b.Prefix)
		if a.Bucket > 0 {
			if a.Bucket = commonBucket(a.Bucket, b.Bucket); a.Bucket == 0 {
				return plain(Generalize)
			}
		}
	}
	return a
}

// commonBucket returns the least bucket whose bounds are bounds of both, 0 when it is longer than a Duration.
func commonBucket(a, b time.Duration) time.Duration {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	if n := b / x; a <= math.MaxInt64/n {
		return a * n
	}
	return 0
}

func (o Operation) maskChar() rune {
	if o.Char == 0 {
		return '*'
	}
	return o.Char
}
