package conformance

import (
	"bytes"
	"testing"
)

// What is written is read again, and judged by what was written.
func TestWrittenVectorsAreRead(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# a self-test\n")
	long := append(bytes.Repeat([]byte{7}, 300), 8)
	Write(&b, "first", "speedguard", "{}", []byte{1, 2}, 3, []byte{4, 5, 6})
	Write(&b, "second", "speedguard", `{"most":2}`, long, -1, nil)
	list, err := Read(b.Bytes())
	if err != nil || len(list) != 2 {
		t.Fatalf("%d, %v in\n%s", len(list), err, &b)
	}
	if c := list[1]; c.Name != "second" || c.Guest != "speedguard" || c.Config != `{"most":2}` || !bytes.Equal(c.Request, long) || c.Length != 301 {
		t.Errorf("%+v", c)
	}
	for _, c := range []struct {
		i       int
		n       int32
		verdict []byte
		want    bool
	}{{0, 3, []byte{4, 5, 6}, true}, {0, 3, []byte{4, 5, 7}, false}, {0, -1, nil, false}, {1, -1, nil, true}, {1, -2, nil, false}, {1, 3, []byte{4, 5, 6}, false}} {
		if ok, want := list[c.i].Accepts(c.n, c.verdict); ok != c.want || want == "" {
			t.Errorf("%+v: %v, %q", c, ok, want)
		}
	}
	if _, err := Read([]byte("# x\n\n# y\nnonsense\n")); err == nil {
		t.Error("nonsense is read")
	}
}

func TestCasesAreForAll(t *testing.T) {
	list := Cases()
	for _, c := range list {
		if c.Guest != "any" || c.Config != "{}" {
			t.Errorf("%+v", c)
		}
	}
	if len(list) < 60 {
		t.Errorf("%d cases", len(list))
	}
}
