package catalog

import "bytes"

// shortestMedia is from what length on a text may hold a picture, a sound or a key.
const shortestMedia = 20

// longText is from what length on signatures of two or three bytes are believed.
const longText = 64

// findMedia looks for the signature of a picture, a video or a sound, as it is, in Base64, in hexadecimal digits or
// behind the head of a data: address. It judges by the first bytes alone.
func findMedia(s []byte, h *hits) {
	if bytes.HasPrefix(s, []byte("data:")) {
		for prefix, d := range mediaTypes {
			if bytes.HasPrefix(s[5:], []byte(prefix)) {
				h.add(d, strong, true)
			}
		}
		i := bytes.IndexByte(s, ',')
		if i < 0 {
			return
		}
		s = s[i+1:]
	}
	var head [24]byte
	if n := decodeHex(head[:], s); n >= 12 {
		judgeHead(head[:n], len(s) > longText, h)
	}
	if n := decodeBase64(head[:], s); n >= 12 {
		judgeHead(head[:n], len(s) > longText, h)
	}
	judgeHead(s[:min(len(s), len(head))], false, h)
}

var mediaTypes = map[string]detector{"image/": image, "video/": video, "audio/": audio}

// signature is how a file begins: magic at an offset, and more of it at offset 8 for the container formats.
type signature struct {
	at    int
	magic string
	form  string
	kind  detector
	short bool // believed in long texts only
}

var signatures = []signature{
	{0, "\xFF\xD8\xFF", "", image, false},
	{0, "\x89PNG\r\n\x1A\n", "", image, false},
	{0, "GIF8", "", image, false},
	{0, "II*\x00", "", image, false},
	{0, "MM\x00*", "", image, false},
	{0, "RIFF", "WEBP", image, false},
	{0, "RIFF", "AVI ", video, false},
	{0, "RIFF", "WAVE", audio, false},
	{4, "ftyp", "heic", image, false},
	{4, "ftyp", "avif", image, false},
	{4, "ftyp", "M4A ", audio, false},
	{4, "ftyp", "", video, false},
	{0, "\x00\x00\x00\x01", "", video, true},
	{0, "\x1A\x45\xDF\xA3", "", video, false},
	{0, "#!AMR", "", audio, false},
	{0, "ID3", "", audio, true},
	{0, "\xFF\xFB", "", audio, true},
	{0, "OggS", "", audio, false},
	{0, "fLaC", "", audio, false},
	{0, "BM", "", image, true},
}

// heads marks the bytes that files with a signature at offset 0 begin with.
var heads = func() (t [256]bool) {
	for _, g := range signatures {
		t[g.magic[0]] = t[g.magic[0]] || g.at == 0
	}
	return t
}()

func judgeHead(p []byte, long bool, h *hits) {
	if len(p) < 12 || !heads[p[0]] && p[4] != 'f' {
		return
	}
	for i := range signatures {
		g := &signatures[i]
		if g.short && !long || string(p[g.at:g.at+len(g.magic)]) != g.magic || g.form != "" && string(p[8:12]) != g.form {
			continue
		}
		if g.magic == "BM" && p[6]|p[7]|p[8]|p[9] != 0 { // reserved bytes of a bitmap
			continue
		}
		h.add(g.kind, strong, true)
		return
	}
}

// decodeBase64 decodes the head of s, either alphabet, and returns how many bytes it gave.
func decodeBase64(dst, s []byte) (n int) {
	for ; len(s) >= 4 && n+3 <= len(dst); s = s[4:] {
		var w uint32
		for _, c := range s[:4] {
			v := base64Value(c)
			if v < 0 {
				return n
			}
			w = w<<6 | uint32(v)
		}
		dst[n], dst[n+1], dst[n+2] = byte(w>>16), byte(w>>8), byte(w)
		n += 3
	}
	return n
}

func base64Value(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case isNumeral(c):
		return int(c-'0') + 52
	case c == '+' || c == '-':
		return 62
	case c == '/' || c == '_':
		return 63
	}
	return -1
}

func decodeHex(dst, s []byte) (n int) {
	for ; len(s) >= 2 && n < len(dst); s = s[2:] {
		if !isHex(s[0]) || !isHex(s[1]) {
			return n
		}
		dst[n] = hexValue(s[0])<<4 | hexValue(s[1])
		n++
	}
	return n
}

func hexValue(c byte) byte {
	if isNumeral(c) {
		return c - '0'
	}
	return upper(c) - 'A' + 10
}
