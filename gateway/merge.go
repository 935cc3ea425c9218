package gateway

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

// Merge joins two operations on one field as product semantics demand; it is commutative, associative and idempotent.
// Message actions and the undecided win as they are: block over hold over fields. Remove beats every other field
// action; encrypt wraps the merge of what lies below; tokenize over mask over generalize over pass; the same operator
// twice leaves less: fewer decimals, a shorter prefix, a longer bucket, fewer characters. What cannot be joined is
// removed: other recipients, other token domains, generalizations of different kinds.
func Merge(a, b Operation) Operation {
	if a.Action.OnMessage() || b.Action.OnMessage() || a.Action == Remove || b.Action == Remove {
		return Operation{Action: normal(Stricter(a.Action, b.Action))}
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

// normal writes the undecided as the block that it is.
func normal(a Action) Action {
	if a == Undecided {
		return Block
	}
	return a
}

// mergeEncrypt joins two operations of which at least one encrypts.
func mergeEncrypt(a, b Operation) Operation {
	to := a.To
	if a.Action != Encrypt {
		to = b.To
	} else if b.Action == Encrypt && b.To != a.To {
		return Operation{Action: Remove}
	}
	inner := Merge(a.below(), b.below())
	if inner.Action == Remove {
		return inner
	}
	inner.Inner, inner.Action, inner.To = inner.Action, Encrypt, to
	return inner
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
			return Operation{Action: Remove}
		}
	case Mask:
		a.Head, a.Tail = min(a.Head, b.Head), min(a.Tail, b.Tail)
		if b.maskChar() < a.maskChar() {
			a.Char = b.Char
		}
	case Generalize:
		if (a.Decimals < 0) != (b.Decimals < 0) || (a.Prefix < 0) != (b.Prefix < 0) || (a.Bucket == 0) != (b.Bucket == 0) {
			return Operation{Action: Remove}
		}
		a.Decimals, a.Prefix = min(a.Decimals, b.Decimals), min(a.Prefix, b.Prefix)
		long, short := max(a.Bucket, b.Bucket), min(a.Bucket, b.Bucket)
		if short > 0 && long%short != 0 {
			return Operation{Action: Remove} // no bucket is as coarse as both
		}
		a.Bucket = long
	}
	return a
}

func (o Operation) maskChar() rune {
	if o.Char == 0 {
		return '*'
	}
	return o.Char
}
