package gateway

import (
	"testing"
	"time"
)

// everyOperation lists field and message operations with parameters that agree, differ and exclude each other.
func everyOperation() []Operation {
	ops := []Operation{plain(Pass), plain(Remove), plain(Hold), plain(Block), {}, {Action: Pass}}
	var inner []Operation
	for _, d := range []int8{-1, 3} {
		for _, p := range []int16{-1, 4} {
			for _, b := range []time.Duration{0, 2 * time.Hour, 3 * time.Hour, 1<<62 - 57} {
				inner = append(inner, Operation{Action: Generalize, Decimals: d, Prefix: p, Bucket: b})
			}
		}
	}
	for _, keep := range [][2]uint8{{3, 0}, {1, 4}} {
		for _, c := range []rune{0, '*', '#'} {
			inner = append(inner, Operation{Action: Mask, Decimals: -1, Prefix: -1, Head: keep[0], Tail: keep[1], Char: c})
		}
	}
	for _, domain := range []string{"a", "b"} {
		inner = append(inner, Operation{Action: Tokenize, Decimals: -1, Prefix: -1, Domain: domain})
	}
	ops = append(ops, inner...)
	for _, to := range []string{"x", "y"} {
		ops = append(ops, Operation{Action: Encrypt, To: to}, Operation{Action: Encrypt, To: to, Inner: Pass, Decimals: -1, Prefix: -1})
		for _, o := range inner {
			o.Inner, o.Action, o.To = o.Action, Encrypt, to
			ops = append(ops, o)
		}
	}
	return ops
}

func TestMergeIsALattice(t *testing.T) {
	ops := everyOperation()
	for _, a := range ops {
		if got := Merge(a, a); got != a.canonical() {
			t.Fatalf("merge of %+v with itself is %+v", a, got)
		}
		for _, b := range ops {
			ab := Merge(a, b)
			if ba := Merge(b, a); ab != ba {
				t.Fatalf("order counts: %+v and %+v make %+v or %+v", a, b, ab, ba)
			}
			if Merge(ab, a) != ab || Merge(ab, b) != ab {
				t.Fatalf("merge of %+v and %+v is weaker than one of them: %+v", a, b, ab)
			}
			if !ab.Action.OnMessage() && (a.Action.OnMessage() || b.Action.OnMessage()) {
				t.Fatalf("merge of %+v and %+v lets the message go: %+v", a, b, ab)
			}
			for _, c := range ops {
				if left, right := Merge(ab, c), Merge(a, Merge(b, c)); left != right {
					t.Fatalf("grouping counts: %+v, %+v, %+v make %+v or %+v", a, b, c, left, right)
				}
			}
		}
	}
}

func TestMergeOfEveryPairOfActions(t *testing.T) {
	op := map[string]Operation{
		"undecided": {}, "pass": plain(Pass), "remove": plain(Remove), "hold": plain(Hold), "block": plain(Block),
		"generalize": {Action: Generalize, Decimals: 2, Prefix: -1},
		"mask":       {Action: Mask, Decimals: -1, Prefix: -1, Tail: 4},
		"tokenize":   {Action: Tokenize, Decimals: -1, Prefix: -1, Domain: "fleet"},
		"encrypt":    {Action: Encrypt, Decimals: -1, Prefix: -1, To: "dso"},
	}
	order := []string{"pass", "generalize", "mask", "tokenize", "encrypt", "remove", "hold", "block", "undecided"}
	// Rows and columns in that order. e(x) is an encryption of what x leaves.
	want := [][]string{
		{"pass", "generalize", "mask", "tokenize", "encrypt", "remove", "hold", "block", "block"},
		{"generalize", "generalize", "mask", "tokenize", "e(generalize)", "remove", "hold", "block", "block"},
		{"mask", "mask", "mask", "tokenize", "e(mask)", "remove", "hold", "block", "block"},
		{"tokenize", "tokenize", "tokenize", "tokenize", "e(tokenize)", "remove", "hold", "block", "block"},
		{"encrypt", "e(generalize)", "e(mask)", "e(tokenize)", "encrypt", "remove", "hold", "block", "block"},
		{"remove", "remove", "remove", "remove", "remove", "remove", "hold", "block", "block"},
		{"hold", "hold", "hold", "hold", "hold", "hold", "hold", "block", "block"},
		{"block", "block", "block", "block", "block", "block", "block", "block", "block"},
		{"block", "block", "block", "block", "block", "block", "block", "block", "block"},
	}
	for _, a := range []string{"generalize", "mask", "tokenize"} {
		o := op[a]
		o.Inner, o.Action, o.To = o.Action, Encrypt, "dso"
		op["e("+a+")"] = o
	}
	for i, a := range order {
		for j, b := range order {
			if got := Merge(op[a], op[b]); got != op[want[i][j]] {
				t.Errorf("%s with %s is %+v, want %s", a, b, got, want[i][j])
			}
		}
	}
}

func TestMergeOfParameters(t *testing.T) {
	generalize := func(decimals int8, prefix int16, bucket time.Duration) Operation {
		return Operation{Action: Generalize, Decimals: decimals, Prefix: prefix, Bucket: bucket}
	}
	mask := func(head, tail uint8, c rune) Operation {
		return Operation{Action: Mask, Decimals: -1, Prefix: -1, Head: head, Tail: tail, Char: c}
	}
	token := func(domain string) Operation {
		return Operation{Action: Tokenize, Decimals: -1, Prefix: -1, Domain: domain}
	}
	cipher := func(to string) Operation {
		return Operation{Action: Encrypt, Decimals: -1, Prefix: -1, To: to}
	}
	for _, c := range []struct {
		name       string
		a, b, want Operation
	}{
		{"fewer decimals", generalize(3, -1, 0), generalize(1, -1, 0), generalize(1, -1, 0)},
		{"a shorter prefix", generalize(-1, 3, 0), generalize(-1, 6, 0), generalize(-1, 3, 0)},
		{"a bucket that both divide", generalize(-1, -1, 4*time.Hour), generalize(-1, -1, 6*time.Hour), generalize(-1, -1, 12*time.Hour)},
		{"buckets without a common one fit nothing", generalize(-1, -1, 1<<62-57), generalize(-1, -1, time.Hour), plain(Generalize)},
		{"decimals and a prefix fit nothing together", generalize(3, -1, 0), generalize(-1, 6, 0), plain(Generalize)},
		{"but a mask is stricter than both", plain(Generalize), mask(1, 1, 0), mask(1, 1, 0)},
		{"fewer characters on either side", mask(3, 0, 0), mask(1, 4, 0), mask(1, 0, 0)},
		{"the default star is a star", mask(0, 0, '*'), mask(0, 0, 0), mask(0, 0, 0)},
		{"tokens of two domains cannot both be", token("a"), token("b"), plain(Remove)},
		{"recipients of two ciphertexts cannot both be", cipher("a"), cipher("b"), plain(Remove)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Merge(c.a, c.b); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestGradesAreComparedByRank(t *testing.T) {
	for _, c := range []struct{ a, b, want Grade }{
		{General, Important, Important}, {Core, Important, Core}, {Ungraded, General, Ungraded}, {Ungraded, Core, Ungraded}, {Core, Core, Core},
	} {
		if Highest(c.a, c.b) != c.want || Highest(c.b, c.a) != c.want {
			t.Errorf("highest of %s and %s is not %s", c.a, c.b, c.want)
		}
	}
	if Grade(0).Rank() != Core.Rank() || Grade(200).Rank() != Core.Rank() {
		t.Error("what nobody graded is not treated as core")
	}
	if _, err := ParseGrade("ungraded"); err == nil {
		t.Error("ungraded can be written")
	}
}
