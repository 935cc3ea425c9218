// Package conformance holds what every plugin, and every kit for plugins, has to answer: requests as bytes and the verdict or
// error that follows. README.md says how the files are written.
package conformance

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

//go:embed *.txt
var shipped embed.FS

// usualOut is the size of the out region when a vector does not say.
const usualOut = 65536

// Case is one request and what has to be answered.
type Case struct {
	Name    string
	Guest   string // the plugin that it is for
	Config  string // configuration of the plugin, as JSON
	Request []byte
	Length  uint32 // argument of sluice_filter
	want    string
}

// Read reads a file of vectors: the self-test of a plugin.
func Read(text []byte) (list []Case, err error) {
	for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n")[1:] {
		v, err := parse(block)
		if err != nil {
			return nil, fmt.Errorf("vector %d: %w", len(list)+1, err)
		}
		list = append(list, Case{v.name, v.guest, v.config, v.request, v.length, v.want})
	}
	return list, nil
}

// Cases lists what every plugin has to answer in the same way, whatever it is for.
func Cases() (list []Case) {
	names, err := shipped.ReadDir(".")
	for _, f := range names {
		var text []byte
		var more []Case
		if text, err = shipped.ReadFile(f.Name()); err == nil {
			more, err = Read(text)
		}
		if err != nil {
			break
		}
		for _, c := range more {
			if c.Name = strings.TrimSuffix(f.Name(), ".txt") + ", " + c.Name; c.Guest == "any" {
				list = append(list, c)
			}
		}
	}
	if err != nil {
		panic("conformance: " + err.Error())
	}
	return list
}

// Accepts reports whether a plugin that returned n, and these bytes when n is positive, has answered as it has to; want
// is what it has to.
func (c *Case) Accepts(n int32, verdict []byte) (ok bool, want string) {
	return (&vector{want: c.want}).wants(answered(n, verdict)), c.want
}

// answered is what a call returned, in the words of a vector file.
func answered(n int32, verdict []byte) string {
	if n > 0 {
		return fmt.Sprintf("verdict %x", verdict)
	}
	return fmt.Sprintf("error %d", n)
}

// Write writes one vector in the form that Read reads, with a blank line in front.
func Write(w io.Writer, name, guest, config string, request []byte, n int32, verdict []byte) {
	fmt.Fprintf(w, "\n# %s\nguest %s\n", name, guest)
	if config != "{}" {
		fmt.Fprintf(w, "config %s\n", config)
	}
	fmt.Fprintf(w, "request%s\n", hexLines(request))
	if n > 0 {
		fmt.Fprintf(w, "verdict%s\n", hexLines(verdict))
	} else {
		fmt.Fprintf(w, "error %d\n", n)
	}
}

// vector is one case of a vector file.
type vector struct {
	name    string // file and comment
	guest   string
	config  string
	out     uint64
	request []byte
	length  uint32
	want    string
}

func parse(block string) (v vector, err error) {
	v.config, v.out = "{}", usualOut
	length := ""
	for _, line := range strings.Split(strings.ReplaceAll(strings.TrimSpace(block), "\n\t", "\t"), "\n") {
		line, bytes, _ := strings.Cut(line, "\t")
		key, rest, _ := strings.Cut(line, " ")
		switch key {
		case "#":
			v.name = rest
		case "guest":
			v.guest = rest
		case "config":
			v.config = rest
		case "out":
			v.out, err = strconv.ParseUint(rest, 10, 32)
		case "length":
			length = rest
		case "request":
			v.request, err = unhex(bytes)
		case "verdict":
			var b []byte
			b, err = unhex(bytes)
			v.want = fmt.Sprintf("verdict %x", b)
		case "error", "trap", "refused", "digest":
			v.want = line
		default:
			return v, fmt.Errorf("unknown line %q", line)
		}
		if err != nil {
			return v, err
		}
	}
	v.length = uint32(len(v.request))
	if length != "" {
		n, err := strconv.ParseUint(length, 10, 32)
		if err != nil {
			return v, err
		}
		v.length = uint32(n)
	}
	if v.guest == "" || v.want == "" || (v.request == nil) != strings.HasPrefix(v.want, "refused") {
		return v, fmt.Errorf("guest, request or expectation is missing")
	}
	return v, nil
}

// unhex reads words of hexadecimal bytes; WORD*N stands N times.
func unhex(s string) ([]byte, error) {
	var out []byte
	for _, word := range strings.Fields(s) {
		word, times, repeated := strings.Cut(word, "*")
		n := 1
		if repeated {
			var err error
			if n, err = strconv.Atoi(times); err != nil {
				return nil, err
			}
		}
		b, err := hex.DecodeString(word)
		if err != nil {
			return nil, err
		}
		for range n {
			out = append(out, b...)
		}
	}
	return out, nil
}

// wants reports whether got is what the vector expects.
func (v *vector) wants(got string) bool {
	if text, ok := strings.CutPrefix(got, "verdict "); ok && strings.HasPrefix(v.want, "digest") {
		b, err := hex.DecodeString(text)
		return err == nil && digest(b) == v.want
	}
	return got == v.want
}

// digest is a long verdict in short.
func digest(b []byte) string { return fmt.Sprintf("digest %d %x", len(b), sha256.Sum256(b)) }

// hexLines writes 32 bytes a line; 4 equal lines and more are one, with how often it stands there.
func hexLines(b []byte) string {
	var s strings.Builder
	for line := range slices.Chunk(b, 32) {
		fmt.Fprintf(&s, "\n\t%x", line)
	}
	lines := strings.Split(s.String(), "\n")[1:]
	s.Reset()
	for i := 0; i < len(lines); {
		n := 1
		for i+n < len(lines) && lines[i+n] == lines[i] {
			n++
		}
		if n < 4 {
			n = 1
		}
		s.WriteString("\n" + lines[i])
		if n > 1 {
			fmt.Fprintf(&s, "*%d", n)
		}
		i += n
	}
	return s.String()
}
