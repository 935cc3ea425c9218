package wasm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// VectorsSuffix takes the place of .wasm in the name of a module's self-test file.
const VectorsSuffix = ".vectors"

// MaxVectors bounds a self-test file, and maxVectorBytes one request or verdict in it.
const (
	MaxVectors     = 8 << 20
	maxVectorBytes = maxRegion
)

// vector is one case of a self-test file.
type vector struct {
	name    string
	config  string
	out     uint32 // size of the out region, 0 = that of the manifest
	request []byte
	length  int64 // argument of sluice_filter, -1 = that of the request
	want    string
}

// checkVectors tests a module against its self-test file, when its manifest has one: the digest first, then every vector
// under the limits of the manifest.
func (p *pool) checkVectors(ctx context.Context, m *Manifest, file []byte) error {
	if m.Vectors == "" {
		return nil
	}
	if file == nil {
		return errors.New("the manifest names a self-test file, and it is not there")
	}
	if sum := sha256.Sum256(file); !strings.EqualFold(hex.EncodeToString(sum[:]), m.Vectors) {
		return errors.New("the self-test file is not the one of the manifest")
	}
	list, err := parseVectors(file, m.Name)
	if err != nil {
		return fmt.Errorf("read self-test file: %w", err)
	}
	var t tester
	defer t.close()
	for i := range list {
		v := &list[i]
		got, err := t.run(ctx, p, v)
		if err != nil {
			return fmt.Errorf("vector %d: %w", i+1, err)
		}
		if got != v.want {
			return fmt.Errorf("vector %d: the plugin gives another answer", i+1)
		}
	}
	return nil
}

// tester keeps an instance from one vector to the next, while they want the same of it.
type tester struct {
	in     *instance
	config string
	out    uint32
}

func (t *tester) close() {
	if t.in != nil {
		t.in.close()
		t.in = nil
	}
}

// run asks the plugin and returns what it says in the words of the file.
func (t *tester) run(ctx context.Context, p *pool, v *vector) (string, error) {
	if t.in == nil || t.config != v.config || t.out != v.out {
		t.close()
		own := pool{runtime: p.runtime, compiled: p.compiled, exported: p.exported, limits: p.limits, config: []byte(v.config), log: p.log}
		if v.out != 0 {
			own.limits.OutBytes = v.out
		}
		in, err := own.instantiate(ctx)
		var no *notAccepted
		switch {
		case errors.As(err, &no):
			return "refused " + no.text, nil
		case err != nil:
			return "", err
		}
		t.in, t.config, t.out = in, v.config, v.out
	}
	in, out := t.in, p.limits.OutBytes
	if v.out != 0 {
		out = v.out
	}
	if len(v.request) > int(p.limits.InBytes) || !in.mem.Write(in.in, v.request) {
		return "", errors.New("the request does not fit the in region")
	}
	in.stack[0] = uint64(len(v.request))
	if v.length >= 0 {
		in.stack[0] = uint64(v.length)
	}
	code, err := in.call(in.filter, p.limits.Fuel)
	if err != nil {
		t.close()
		if code == codeTrap {
			return "trap", nil
		}
		return code, nil
	}
	n := int32(uint32(in.stack[0]))
	if n <= 0 {
		return fmt.Sprintf("error %d", n), nil
	}
	verdict, ok := in.mem.Read(in.out, uint32(n))
	if !ok || uint32(n) > out {
		return "", errLength
	}
	if strings.HasPrefix(v.want, "digest ") {
		return fmt.Sprintf("digest %d %x", len(verdict), sha256.Sum256(verdict)), nil
	}
	return "verdict " + hex.EncodeToString(verdict), nil
}

// parseVectors reads the format of plugins/conformance/README.md; vectors for other plugins are left out.
func parseVectors(file []byte, name string) ([]vector, error) {
	if len(file) > MaxVectors {
		return nil, fmt.Errorf("more than %d bytes", MaxVectors)
	}
	var list []vector
	for i, block := range strings.Split(strings.TrimRight(string(file), "\n"), "\n\n") {
		if i == 0 && !strings.Contains("\n"+block, "\nguest ") {
			continue // what stands before the first is a comment
		}
		v := vector{config: "{}", length: -1}
		guest := ""
		into := (*[]byte)(nil) // where lines that begin with a tab go
		var verdict []byte
		for line := range strings.SplitSeq(block, "\n") {
			word, rest, _ := strings.Cut(line, " ")
			var err error
			switch {
			case strings.HasPrefix(line, "\t") && into != nil:
				*into, err = appendHex(*into, line[1:])
			case word == "#":
				v.name = rest
			case word == "guest":
				guest = rest
			case word == "config":
				v.config = rest
			case word == "out":
				var n uint64
				n, err = strconv.ParseUint(rest, 10, 32)
				if v.out = uint32(n); n == 0 || n > maxRegion {
					err = errors.New("size of the out region")
				}
			case word == "length":
				var n uint64
				n, err = strconv.ParseUint(rest, 10, 32)
				v.length = int64(n)
			case line == "request":
				into = &v.request
			case line == "verdict":
				into, v.want = &verdict, "verdict "
			case word == "digest", word == "error", line == "trap", word == "refused":
				v.want = line
			default:
				err = errors.New("a line that is not understood")
			}
			if err != nil {
				return nil, fmt.Errorf("vector %d: %w", len(list)+1, err)
			}
		}
		if v.want == "verdict " {
			v.want += hex.EncodeToString(verdict)
		}
		if v.want == "" || guest == "" {
			return nil, fmt.Errorf("vector %d: nothing is wanted, or of nobody", len(list)+1)
		}
		if guest == name || guest == "any" {
			list = append(list, v)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("no vector is for this plugin")
	}
	return list, nil
}

// appendHex reads words of hexadecimal bytes; WORD*N stands N times.
func appendHex(b []byte, line string) ([]byte, error) {
	for word := range strings.FieldsSeq(line) {
		word, times, repeated := strings.Cut(word, "*")
		n := 1
		if repeated {
			var err error
			if n, err = strconv.Atoi(times); err != nil || n < 1 || n > maxVectorBytes {
				return nil, errors.New("how often a word stands")
			}
		}
		part, err := hex.DecodeString(word)
		if err != nil {
			return nil, err
		}
		if len(b)+n*len(part) > maxVectorBytes {
			return nil, fmt.Errorf("more than %d bytes", maxVectorBytes)
		}
		b = append(b, bytes.Repeat(part, n)...)
	}
	return b, nil
}
