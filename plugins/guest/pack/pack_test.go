package pack

import (
	"strings"
	"testing"
)

func TestPack(t *testing.T) {
	const code = magic + "\x01\x04\x01\x60\x00\x00" + "\x00\x06\x04nameX"
	const want = code + "\x00\x1c\x0fsluice.manifest{\"name\":\"a\"}"
	packed, err := Pack([]byte(code), []byte("{ \"name\":\n\t\"a\" }\n"))
	if err != nil || string(packed) != want {
		t.Errorf("%q %v; want %q", packed, err, want)
	}
	if again, err := Pack(packed, []byte(`{"name":"a"}`)); err != nil || string(again) != want {
		t.Errorf("packed again: %q %v", again, err)
	}
	if other, err := Pack(packed, []byte(`{"name":"b"}`)); err != nil || string(other) != strings.Replace(want, `"a"`, `"b"`, 1) {
		t.Errorf("another manifest: %q %v", other, err)
	}
	for _, c := range []struct{ code, manifest, want string }{
		{code, "{", "manifest"}, {code, "[]", "no JSON object"}, {code, "", "manifest"}, {code, `{"a":"` + strings.Repeat("x", maxManifest) + `"}`, "at most 16384"},
		{"ELF", "{}", "no WebAssembly"}, {code[:len(code)-1], "{}", "cut off"}, {magic + "\x01", "{}", "cut off"}, {magic + "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "{}", "cut off"},
	} {
		if _, err := Pack([]byte(c.code), []byte(c.manifest)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Pack(%q, %.20q): %v; want %q", c.code, c.manifest, err, c.want)
		}
	}
}
