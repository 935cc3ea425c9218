package mqtt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vector is one frame of testdata/frames: a comment, the bytes in hexadecimal, what is understood.
type vector struct {
	name  string
	frame []byte
	want  string
}

func vectors(t testing.TB) []vector {
	t.Helper()
	files, err := filepath.Glob("testdata/frames/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no vectors")
	}
	var all []vector
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for block := range strings.SplitSeq(strings.TrimSpace(string(data)), "\n\n") {
			lines := strings.Split(block, "\n")
			if len(lines) != 3 || !strings.HasPrefix(lines[0], "# ") {
				t.Fatalf("%s: vector is not three lines: %q", file, block)
			}
			frame, err := hex.DecodeString(strings.ReplaceAll(lines[1], " ", ""))
			if err != nil {
				t.Fatalf("%s: %q: %v", file, lines[0], err)
			}
			all = append(all, vector{strings.TrimPrefix(lines[0], "# "), frame, lines[2]})
		}
	}
	return all
}

// understand says in one line what the session understands of a frame.
func understand(frame []byte) string {
	b := &batch{buf: frame}
	first, body, need, err := nextFrame(b, 1<<20)
	if need > 0 {
		return "incomplete"
	}
	if err == nil && first>>4 == typeConnect {
		if err = checkFlags(first); err == nil {
			var c connect
			if c, err = decodeConnect(body); err == nil {
				return connectText(&c)
			}
		}
	} else if err == nil && first>>4 == typePublish {
		var p publish
		if p, err = decodePublish(first, body); err == nil {
			return publishText(&p)
		}
	} else if err == nil {
		s := &session{src: &Source{hints: newHints("test", slog.New(slog.DiscardHandler))}}
		err = s.control(first, body)
		if text := controlText(first, body, s.replies); err == nil || errors.Is(err, errGone) {
			return text
		}
	}
	return "error " + cause(err)
}

// cause is the text behind "verb object: ".
func cause(err error) string {
	_, text, _ := strings.Cut(err.Error(), ": ")
	return text
}

func connectText(c *connect) string {
	var b strings.Builder
	fmt.Fprintf(&b, "connect level=%d", c.level)
	flag := func(on bool, format string, args ...any) {
		if on {
			fmt.Fprintf(&b, format, args...)
		}
	}
	flag(c.isdp, " isdp")
	if c.isdp || c.level != 4 {
		return b.String()
	}
	flag(c.cleanSession, " clean")
	flag(true, " keepalive=%d client=%q", c.keepAlive, c.client)
	flag(c.will, " will=%q message=%x qos=%d", c.willTopic, c.willMessage, c.willQoS)
	flag(c.willRetain, " retain")
	flag(c.hasUser, " user=%q", c.user)
	flag(c.hasPassword, " password=%x", c.password)
	return b.String()
}

func publishText(p *publish) string {
	var b strings.Builder
	fmt.Fprintf(&b, "publish qos=%d", p.qos)
	if p.qos > 0 {
		fmt.Fprintf(&b, " id=%d", p.id)
	}
	if p.dup {
		b.WriteString(" dup")
	}
	if p.retain {
		b.WriteString(" retain")
	}
	fmt.Fprintf(&b, " topic=%q payload=%x", p.topic, p.payload)
	return b.String()
}

func controlText(first byte, body, answer []byte) string {
	switch first >> 4 {
	case typePingreq:
		return "pingreq"
	case typeDisconnect:
		return "disconnect"
	}
	name := map[byte]string{typeSubscribe: "subscribe", typeUnsubscribe: "unsubscribe"}[first>>4]
	id, n, _ := decodeFilters(body, first>>4 == typeSubscribe)
	return fmt.Sprintf("%s id=%d filters=%d answer=%x", name, id, n, answer)
}

func TestFramesAreUnderstoodAsTheVectorsSay(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			if got := understand(v.frame); got != v.want {
				t.Errorf("\n got %s\nwant %s", got, v.want)
			}
		})
	}
}

// frameOf puts a fixed header in front of a body.
func frameOf(first byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	return append(appendLength([]byte{first}, len(body)), body...)
}

func field(s []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// encodePublish is the inverse of decodePublish.
func encodePublish(p publish) []byte {
	first := byte(typePublish<<4) | p.qos<<1
	if p.dup {
		first |= 0x08
	}
	if p.retain {
		first |= 0x01
	}
	var id []byte
	if p.qos > 0 {
		id = binary.BigEndian.AppendUint16(nil, p.id)
	}
	return frameOf(first, field(p.topic), id, p.payload)
}

// encodeConnect is the inverse of decodeConnect for level 4.
func encodeConnect(c connect) []byte {
	flags := c.willQoS << 3
	parts := [][]byte{field([]byte("MQTT")), {4, 0}, binary.BigEndian.AppendUint16(nil, c.keepAlive), field(c.client)}
	set := func(on bool, bit byte, fields ...[]byte) {
		if on {
			flags |= bit
			for _, f := range fields {
				parts = append(parts, field(f))
			}
		}
	}
	set(c.cleanSession, 0x02)
	set(c.will, 0x04, c.willTopic, c.willMessage)
	set(c.willRetain, 0x20)
	set(c.hasUser, 0x80, c.user)
	set(c.hasPassword, 0x40, c.password)
	parts[1][1] = flags
	return frameOf(typeConnect<<4, parts...)
}

func FuzzDecode(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.frame)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = understand(data)
		b := &batch{buf: data}
		for {
			start := b.off
			first, body, need, err := nextFrame(b, 64<<10)
			if err != nil || need > 0 {
				if need > 64<<10 {
					t.Fatalf("asks for %d bytes", need)
				}
				return
			}
			frame := data[start:b.off]
			minimal := len(frame) == len(frameOf(first, body))
			if p, err := decodePublish(first, body); first>>4 == typePublish && err == nil && minimal {
				if again := encodePublish(p); !bytes.Equal(again, frame) {
					t.Fatalf("PUBLISH %x encodes to %x", frame, again)
				}
			}
			if c, err := decodeConnect(body); first == typeConnect<<4 && err == nil && c.level == 4 && !c.isdp && minimal {
				if again := encodeConnect(c); !bytes.Equal(again, frame) {
					t.Fatalf("CONNECT %x encodes to %x", frame, again)
				}
			}
		}
	})
}

func TestADeclaredLengthAloneCostsNoMemory(t *testing.T) {
	b := newBatch(0)
	b.buf = append(b.buf, 0x30, 0xff, 0xff, 0x0f) // 256 KiB to come
	for sent := len(b.buf); ; {
		_, _, need, err := nextFrame(b, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if need == 0 {
			break
		}
		b.compact()
		b.grow(need)
		if cap(b.buf) > max(2*sent, 2*bufferSizes[0]) {
			t.Fatalf("%d bytes reserved after %d bytes have come", cap(b.buf), sent)
		}
		n := cap(b.buf) - len(b.buf)
		b.buf = b.buf[:cap(b.buf)]
		if sent += n; sent > 4<<20 {
			t.Fatal("frame never complete")
		}
	}
}

func TestLongLengthsSurviveTheWayThereAndBack(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 16383, 16384, 2097151, 2097152, 268435455} {
		_, header, remaining, err := frameHeader(appendLength([]byte{0x30}, n))
		if err != nil || remaining != n || header == 0 {
			t.Errorf("%d comes back as %d, %v", n, remaining, err)
		}
	}
}
