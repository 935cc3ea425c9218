package audit

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxCaptureLine bounds one line of a capture: the largest body, with every character escaped.
const maxCaptureLine = 16 << 20

// errCaptureLine reports a line that is no captured message.
var errCaptureLine = errors.New("line is no captured message")

// Captured is one message as a recipient got it.
type Captured struct {
	Topic   string
	Payload []byte
	Exact   bool // the bytes are those that arrived; a tool may have written them anew
}

// captureLine is one line. Which of the payloads it has says who wrote it; there must be exactly one.
type captureLine struct {
	Topic  *string        `json:"topic"`
	Base64 *string        `json:"payload_base64"`
	Hex    *string        `json:"payload_hex"`
	Plain  jsontext.Value `json:"payload"`    // mosquitto_sub: %j writes a text, %J the JSON value, printed anew
	Length *int           `json:"payloadlen"` // mosquitto_sub: bytes that arrived
}

// readCapture calls fn for every line of r that is not empty, numbered from 1. A line that is no captured message comes
// with errCaptureLine, however long it is; one is held in memory at a time.
func readCapture(r io.Reader, fn func(line uint64, c Captured, err error) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var buf []byte
	for line := uint64(1); ; line++ {
		buf = buf[:0]
		long := false
		var err error
		for {
			var part []byte
			part, err = in.ReadSlice('\n')
			if long = long || len(buf)+len(part) > maxCaptureLine; !long {
				buf = append(buf, part...)
			}
			if err != bufio.ErrBufferFull {
				break
			}
		}
		if err != nil && err != io.EOF {
			return err
		}
		if c, perr := parseCapture(buf); long || perr != nil {
			if err := fn(line, Captured{}, errCaptureLine); err != nil {
				return err
			}
		} else if len(trimSpace(buf)) > 0 {
			if err := fn(line, c, nil); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}

// parseCapture reads one line. An empty one is an empty Captured.
func parseCapture(text []byte) (c Captured, err error) {
	if text = trimSpace(text); len(text) == 0 {
		return c, nil
	}
	var l captureLine
	if json.Unmarshal(text, &l) != nil || l.Topic == nil {
		return c, errCaptureLine
	}
	c.Topic, c.Exact = *l.Topic, true
	given := 0
	if l.Base64 != nil {
		given++
		c.Payload, err = base64.StdEncoding.DecodeString(*l.Base64)
	}
	if l.Hex != nil {
		given++
		c.Payload, err = hex.DecodeString(*l.Hex)
	}
	if l.Plain != nil {
		given++
		if err == nil {
			c.Payload, c.Exact, err = plainPayload(l.Plain, l.Length)
		}
	}
	if err != nil || given != 1 {
		return Captured{}, errCaptureLine
	}
	return c, nil
}

// plainPayload reads what mosquitto_sub writes as payload: the bytes as a text; as a list of numbers where they are no
// text that it would print; or a JSON value in its own spelling.
func plainPayload(v jsontext.Value, length *int) (payload []byte, exact bool, err error) {
	switch v.Kind() {
	case '"':
		var s string
		if err := json.Unmarshal(v, &s); err != nil {
			return nil, false, err
		}
		return []byte(s), length == nil || *length == len(s), nil
	case 'n':
		if length == nil || *length == 0 {
			return nil, true, nil
		}
	case '[':
		var bytes []uint16
		if length != nil && json.Unmarshal(v, &bytes) == nil && len(bytes) == *length {
			for _, b := range bytes {
				if b > 255 {
					return v, false, nil
				}
				payload = append(payload, byte(b))
			}
			return payload, true, nil
		}
	}
	return v, false, nil
}
