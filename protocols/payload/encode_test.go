package payload

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-edge/sluice/gateway"
)

func drop(i int32) gateway.Change { return gateway.Change{Node: i, Op: gateway.DropNode} }
func rename(i int32, to string) gateway.Change {
	return gateway.Change{Node: i, Op: gateway.SetKey, With: []byte(to)}
}
func set(i int32, as gateway.Kind, to string) gateway.Change {
	return gateway.Change{Node: i, Op: gateway.SetValue, As: as, With: []byte(to)}
}

func TestEncode(t *testing.T) {
	for _, c := range []struct {
		name    string
		body    string
		changes []gateway.Change
		want    string
		err     error
		out     []string
	}{
		{"no change copies every byte", ` {"a" : 1.50 } `, nil, ` {"a" : 1.50 } `, nil, nil},
		{"the first member goes with the comma behind", `{"a":1, "b":2}`, []gateway.Change{drop(1)}, `{"b":2}`, nil, nil},
		{"the last member goes with the comma before", `{"a":1 , "b":2 }`, []gateway.Change{drop(2)}, `{"a":1 }`, nil, nil},
		{"a middle member goes with one comma", `[1, 2, 3]`, []gateway.Change{drop(2)}, `[1, 3]`, nil, nil},
		{"all members leave an empty object", `{ "a":1, "b":{"x":2} , "c":3 }`, []gateway.Change{drop(1), drop(2), drop(4)}, `{  }`, nil, nil},
		{"all elements leave an empty array", `[1,2]`, []gateway.Change{drop(1), drop(2)}, `[]`, nil, nil},
		{"the first and the last go", `[1,2,3]`, []gateway.Change{drop(1), drop(3)}, `[2]`, nil, nil},
		{"the first two go", `[1,2,3]`, []gateway.Change{drop(1), drop(2)}, `[3]`, nil, nil},
		{"the last two go", `[1,2,3]`, []gateway.Change{drop(2), drop(3)}, `[1]`, nil, nil},
		{"two runs go", `[1,2,3,4,5]`, []gateway.Change{drop(1), drop(3), drop(4)}, `[2,5]`, nil, nil},
		{"a removal inside does not disturb the one outside", `[1,{"x":2,"y":3},4]`, []gateway.Change{drop(1), drop(3), drop(5)}, `[{"y":3}]`, nil, nil},
		{"a comma inside a string is no comma", `{"a":",","b":",","c":","}`, []gateway.Change{drop(2)}, `{"a":",","c":","}`, nil, nil},
		{"a container goes whole", `{"a":{"x":[1,2]},"b":1}`, []gateway.Change{drop(1)}, `{"b":1}`, nil, nil},
		{"text is quoted", `{"a":1}`, []gateway.Change{set(1, gateway.String, "x\"\\\n\r\t\x01é/")}, `{"a":"x\"\\\n\r\t\u0001é/"}`, nil, []string{`"x\"\\\n\r\t\u0001é/"`}},
		{"a number is written as it is", `{"a":39.909230}`, []gateway.Change{set(1, gateway.Number, "39.91")}, `{"a":39.91}`, nil, []string{`39.91`}},
		{"a container can become a scalar", `{"a":{"x":1},"b":[2]}`, []gateway.Change{set(1, gateway.Null, "null"), set(3, gateway.Bool, "false")}, `{"a":null,"b":false}`, nil, []string{"null", "false"}},
		{"the root can be replaced", ` "x" `, []gateway.Change{set(0, gateway.Number, "1")}, ` 1 `, nil, []string{"1"}},
		{"a key is renamed", `{"a" :1}`, []gateway.Change{rename(1, `b"`)}, `{"b\"" :1}`, nil, []string{`"b\""`}},
		{"an escaped key is replaced whole", `{"a\"\\" :1}`, []gateway.Change{rename(1, `b`)}, `{"b" :1}`, nil, []string{`"b"`}},
		{"key and value change, key first", `{"a":1}`, []gateway.Change{rename(1, "b"), set(1, gateway.Number, "2")}, `{"b":2}`, nil, []string{`"b"`, "2"}},
		{"key and value change, value first", `{"a":1}`, []gateway.Change{set(1, gateway.Number, "2"), rename(1, "b")}, `{"b":2}`, nil, []string{"2", `"b"`}},
		{"a removed member needs no name", `{"a":1,"b":2}`, []gateway.Change{drop(1), rename(1, "b")}, `{"b":2}`, nil, []string{""}},
		{"a key takes the name of a removed one", `{"a":1,"b":2}`, []gateway.Change{drop(1), rename(2, "a")}, `{"a":2}`, nil, []string{`"a"`}},
		{"two keys swap their names", `{"a":1,"b":2}`, []gateway.Change{rename(1, "b"), rename(2, "a")}, `{"b":1,"a":2}`, nil, []string{`"b"`, `"a"`}},
		{"the same name in another object is free", `{"a":1,"o":{"b":2}}`, []gateway.Change{rename(1, "b")}, `{"b":1,"o":{"b":2}}`, nil, []string{`"b"`}},
		{"a key cannot take a name that exists", `{"a":1,"\u0062":2}`, []gateway.Change{rename(1, "b")}, ``, errKeyTaken, nil},
		{"a key cannot take a name that another gets", `{"a":1,"b":2}`, []gateway.Change{rename(1, "c"), rename(2, "c")}, ``, errKeyTaken, nil},
		{"a name without change counts as taken by others", `{"a":1,"b":2}`, []gateway.Change{rename(1, "b"), set(2, gateway.Number, "3")}, ``, errKeyTaken, nil},
		{"the root cannot be removed", `{}`, []gateway.Change{drop(0)}, ``, errDropRoot, nil},
		{"an element has no key", `[1]`, []gateway.Change{rename(1, "a")}, ``, errChange, nil},
		{"nul cannot enter a name", `{"a":1}`, []gateway.Change{rename(1, "a\x00")}, ``, errChange, nil},
		{"a name is utf-8", `{"a":1}`, []gateway.Change{rename(1, "a\xff")}, ``, errText, nil},
		{"text is utf-8", `{"a":1}`, []gateway.Change{set(1, gateway.String, "a\xff")}, ``, errText, nil},
		{"a number is a number", `{"a":1}`, []gateway.Change{set(1, gateway.Number, "1,\"b\":2")}, ``, errLiteral, nil},
		{"a number is one", `{"a":1}`, []gateway.Change{set(1, gateway.Number, "")}, ``, errLiteral, nil},
		{"a bool is a bool", `{"a":1}`, []gateway.Change{set(1, gateway.Bool, "True")}, ``, errLiteral, nil},
		{"a null is null", `{"a":1}`, []gateway.Change{set(1, gateway.Null, "")}, ``, errLiteral, nil},
		{"no container can be written", `{"a":1}`, []gateway.Change{set(1, gateway.Object, "{}")}, ``, errLiteral, nil},
		{"the zero change is none", `{"a":1}`, []gateway.Change{{Node: 1}}, ``, errChange, nil},
		{"a change is about a node", `{"a":1}`, []gateway.Change{drop(7)}, ``, errChange, nil},
		{"changes stand in order", `[1,2]`, []gateway.Change{drop(2), drop(1)}, ``, errChangeOrder, nil},
		{"nothing changes below what is removed", `[[1]]`, []gateway.Change{drop(1), drop(2)}, ``, errChangeOrder, nil},
		{"nothing changes below what is replaced", `[[1]]`, []gateway.Change{set(1, gateway.Null, "null"), drop(2)}, ``, errChangeOrder, nil},
		{"a node changes once", `[1]`, []gateway.Change{drop(1), drop(1)}, ``, errChangeOrder, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b gateway.Body
			if err := (JSON{}).Decode([]byte(c.body), &b); err != nil {
				t.Fatal(err)
			}
			var spans []gateway.Span
			got, err := JSON{}.Encode([]byte("before"), &b, c.changes, &spans)
			if !errors.Is(err, c.err) || !strings.HasPrefix(string(got), "before") || string(got[6:]) != c.want {
				t.Fatalf("got %q, %v; want %q, %v", got, err, c.want, c.err)
			}
			if len(spans) != len(c.out) {
				t.Fatalf("%d spans, want %d", len(spans), len(c.out))
			}
			for i, s := range spans {
				if w := string(got[6+s.Off : 6+s.End()]); w != c.out[i] {
					t.Errorf("span %d is %q, want %q", i, w, c.out[i])
				}
			}
		})
	}
}

// A removed node and whatever else is asked for, by chance: the result is a text that both scanners take and that
// holds as many values as it should.
func FuzzEncode(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add([]byte(v.body), uint64(len(v.body)))
	}
	f.Add(sample(), uint64(7))
	f.Fuzz(func(t *testing.T, raw []byte, seed uint64) {
		var b gateway.Body
		if (JSON{}).Decode(raw, &b) != nil {
			return
		}
		changes, left := randomChanges(&b, rand.New(rand.NewPCG(seed, 1)))
		var spans []gateway.Span
		out, err := JSON{}.Encode(nil, &b, changes, &spans)
		if errors.Is(err, errKeyTaken) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		var again gateway.Body
		if err := (JSON{}).Decode(out, &again); err != nil || !jsontext.Value(out).IsValid() {
			t.Fatalf("result does not parse: %v", err)
		}
		if len(again.Nodes) != left {
			t.Fatalf("%d values left, want %d", len(again.Nodes), left)
		}
		for _, s := range spans {
			if s.Off < 0 || int(s.End()) > len(out) {
				t.Fatal("span outside of the result")
			}
		}
	})
}

// randomChanges returns changes in order and the number of values that stay.
func randomChanges(b *gateway.Body, r *rand.Rand) (changes []gateway.Change, left int) {
	left = len(b.Nodes)
	for i := int32(0); int(i) < len(b.Nodes); {
		if b.HasKey(int(i)) && r.IntN(8) == 0 {
			changes = append(changes, rename(i, fmt.Sprintf("tk%d\n", r.IntN(1000))))
		}
		next := i + 1
		switch r.IntN(6) {
		case 0, 1:
			if i > 0 {
				changes = append(changes, drop(i))
				next = b.Nodes[i].Next
				left -= int(next - i)
			}
		case 2:
			changes = append(changes, set(i, gateway.String, strings.Repeat("\"\x02é", r.IntN(4))))
			next = b.Nodes[i].Next
			left -= int(next - i - 1)
		}
		i = next
	}
	return changes, left
}

func TestEncodeAllocatesNothingWithRoom(t *testing.T) {
	var b gateway.Body
	if err := (JSON{}).Decode(sample(), &b); err != nil {
		t.Fatal(err)
	}
	changes := []gateway.Change{set(3, gateway.String, "tkbcdf"), drop(6)}
	dst, out := make([]byte, 0, 4096), make([]gateway.Span, 0, 8)
	n := testing.AllocsPerRun(100, func() {
		out = out[:0]
		if _, err := (JSON{}).Encode(dst, &b, changes, &out); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestManyRenamesAreNotQuadratic(t *testing.T) {
	raw := []byte{'{'}
	for i := range 50_000 {
		raw = fmt.Appendf(raw, `"k%d":1,`, i)
	}
	raw = append(raw, `"end":0}`...)
	var b gateway.Body
	if err := (JSON{}).Decode(raw, &b); err != nil {
		t.Fatal(err)
	}
	var changes []gateway.Change
	for i := int32(1); i <= 50_000; i++ {
		changes = append(changes, rename(i, fmt.Sprintf("t%d", i)))
	}
	out, err := JSON{}.Encode(nil, &b, changes, nil)
	if err != nil || !bytes.HasPrefix(out, []byte(`{"t1":1,"t2":1`)) {
		t.Fatalf("got %.20q, %v", out, err)
	}
}

func BenchmarkEncode(b *testing.B) {
	var body gateway.Body
	if err := (JSON{}).Decode(sample(), &body); err != nil {
		b.Fatal(err)
	}
	changes := []gateway.Change{set(3, gateway.String, "tkbcdf"), set(6, gateway.Number, "39.91"), set(7, gateway.Number, "116.40"), drop(27)}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, err = (JSON{}).Encode(dst[:0], &body, changes, nil); err != nil {
			b.Fatal(err)
		}
	}
}
