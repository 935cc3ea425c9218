//go:build ignore

/* media: pictures, video and sound stay here, whatever they call themselves.
 *
 * Configuration, JSON, all of it optional: {"image": "hold|block|none", "video": "…", "audio": "…"}; hold when absent.
 *
 * The payload is looked at by its first bytes, the magic of the format, in these places: at the beginning of the body; anywhere in
 * it, where the magic is long or says more about itself; every JSON string and every run of Base64 in text, as Base64 of either alphabet
 * (also twice), hexadecimal digits or bytes written as characters, behind the head of a data: address and with escapes taken out;
 * JSON arrays of byte values. A payload that was not granted makes the message an error.
 */
#define SLUICE_IN_BYTES 98304
#include "../guest/c/sluice.h"
#include "../guest/c/json.h"

enum { NOTHING, IMAGE, VIDEO, AUDIO, KINDS }; /* also the reasons of the manifest */
enum { HEAD = 192, LONG = 64 };              /* characters of a text that are kept; from where on short magic is believed */
static uint8_t actions[KINDS], configured, found;

static int same(const uint8_t *p, const char *magic, uint32_t n) {
	for (uint32_t i = 0; i < n; i++)
		if (p[i] != (uint8_t)magic[i]) return 0;
	return 1;
}
#define IS(p, magic) same(p, magic, sizeof magic - 1)

/* ISO media boxes: what stands behind "ftyp". */
static int brand(const uint8_t *p) {
	static const char images[][5] = {"heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1", "avif", "avis", "jpx ", "jp2 ", "crx "};
	for (uint32_t i = 0; i < sizeof images / 5; i++)
		if (same(p, images[i], 4)) return IMAGE;
	return IS(p, "M4A ") || IS(p, "M4B ") || IS(p, "M4P ") ? AUDIO : VIDEO;
}

static int riff(const uint8_t *p) { return IS(p, "WEBP") ? IMAGE : IS(p, "AVI ") ? VIDEO : IS(p, "WAVE") ? AUDIO : NOTHING; }

/* A start code of H.264 or H.265 at p, behind which a parameter set, a delimiter or a slice begins. Parameter sets are strong. */
static int start_code(const uint8_t *p, uint32_t n, int strong) {
	uint32_t i = n >= 5 && p[0] == 0 && p[1] == 0 && p[2] == 0 && p[3] == 1 ? 4 : n >= 4 && p[0] == 0 && p[1] == 0 && p[2] == 1 ? 3 : 0;
	if (i == 0 || n < i + 4 || p[i] & 0x80) return 0;
	uint8_t avc = p[i] & 31, hevc = p[i] >> 1 & 63, profile = p[i + 1];
	if (avc == 7 && p[i] & 0x60 && (profile == 66 || profile == 77 || profile == 88 || profile == 100 || profile == 110 || profile == 122 || profile == 244 || profile == 44)) return 1;
	if (hevc >= 32 && hevc <= 34 && !(p[i] & 1) && p[i + 1] == 1) return 1;
	if (strong) return 0;
	return avc == 1 || avc == 5 || avc == 6 || avc == 9 || ((hevc <= 21 || hevc == 35 || hevc == 39) && !(p[i] & 1) && p[i + 1] >= 1 && p[i + 1] <= 7);
}

/* A frame of MPEG audio (MP3) or ADTS (AAC) at p. */
static int audio_frame(const uint8_t *p, uint32_t n) {
	if (n < 4 || p[0] != 0xff || (p[1] & 0xf0) != 0xf0) return 0;
	if ((p[1] & 0xf6) == 0xf0) return (p[2] >> 2 & 15) < 13;                                     /* ADTS: layer 0, a known rate */
	return (p[1] & 0x18) != 0x08 && (p[1] & 6) != 0 && (p[2] & 0xf0) != 0xf0 && (p[2] & 0x0c) != 0x0c; /* version, layer, bit rate, rate */
}

enum { SIX = 1, DIGIT = 2, ANYWHERE = 4, BEGINNING = 8 };

/* What a byte can be: a character of Base64, a hexadecimal digit, the first of a magic anywhere or at a beginning. */
static uint8_t class[256], six[256], digit[256];

SMALL static void fill_tables(void) {
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_", digits[] = "0123456789abcdefABCDEF";
	static const uint8_t anywhere[] = {0xff, 0x89, 'G', 'R', 0x1a, 'O', 'I', '#', 'f', 0}, beginning[] = {'M', 'c', 'A', 'F', 0x30, 'B'};
	for (uint32_t i = 0; i < 256; i++) class[i] = six[i] = digit[i] = 0;
	for (uint32_t i = 0; i < 66; i++) {
		six[(uint8_t)letters[i]] = (uint8_t)(i < 64 ? i : i - 2);
		class[(uint8_t)letters[i]] |= SIX;
	}
	for (uint32_t i = 0; i < 22; i++) {
		digit[(uint8_t)digits[i]] = (uint8_t)(i < 16 ? i : i - 6);
		class[(uint8_t)digits[i]] |= DIGIT;
	}
	for (uint32_t i = 0; i < sizeof anywhere; i++) class[anywhere[i]] |= ANYWHERE | BEGINNING;
	for (uint32_t i = 0; i < sizeof beginning; i++) class[beginning[i]] |= BEGINNING;
}

/* What n bytes at p begin with, when that can be told wherever it stands. before: how many bytes stand in front of p. */
static int strong(const uint8_t *p, uint32_t n, uint32_t before) {
	if (n < 12) return NOTHING;
	switch (p[0]) {
	case 0xff: return p[1] == 0xd8 && p[2] == 0xff && p[3] >= 0xc0 && p[3] != 0xff ? IMAGE : NOTHING;
	case 0x89: return IS(p, "\x89PNG\r\n\x1a\n") ? IMAGE : NOTHING;
	case 'G': return IS(p, "GIF87a") || IS(p, "GIF89a") ? IMAGE : NOTHING;
	case 'R': return IS(p, "RIFF") || IS(p, "RF64") ? riff(p + 8) : NOTHING;
	case 0x1a: return IS(p, "\x1a\x45\xdf\xa3") ? VIDEO : NOTHING;
	case 'O': return IS(p, "OggS") && p[4] == 0 ? AUDIO : NOTHING;
	case 'I': return IS(p, "ID3") && p[3] >= 2 && p[3] <= 4 && !((p[6] | p[7] | p[8] | p[9]) & 0x80) ? AUDIO : NOTHING;
	case '#': return IS(p, "#!AMR") ? AUDIO : NOTHING;
	case 'f':
		if (IS(p, "fLaC") && (p[4] & 0x7f) <= 6) return AUDIO;
		return before >= 4 && IS(p, "ftyp") && p[-4] == 0 && p[-3] == 0 && p[-2] < 16 ? brand(p + 4) : NOTHING;
	case 0: return start_code(p, n, 1) ? VIDEO : NOTHING;
	}
	return NOTHING;
}

enum { SHORT_TEXT, LONG_TEXT, BODY };

/* What n bytes at p are, when they are the beginning of something: decoded from a text, or the body itself. */
static int judge(const uint8_t *p, uint32_t n, int what) {
	if (n < 12 || !(class[p[0]] & BEGINNING || IS(p + 4, "ftyp"))) return NOTHING;
	int kind = strong(p, n, 0);
	if (kind) return kind;
	if (IS(p, "\xff\xd8\xff") || IS(p, "GIF8") || IS(p, "II*\0") || IS(p, "MM\0*") || IS(p, "\0\0\0\x0cjP  ") || IS(p, "\0\0\0\x0cJXL ")) return IMAGE;
	if (IS(p + 4, "ftyp")) return brand(p + 8);
	if (IS(p, "OggS") || IS(p, "fLaC") || IS(p, "caff") || IS(p, "ADIF") || (IS(p, "FORM") && IS(p + 8, "AIF"))) return AUDIO;
	if (IS(p, "FLV\1") || IS(p, "\x30\x26\xb2\x75\x8e\x66\xcf\x11") || IS(p, "\0\0\1\xba") || IS(p, "\0\0\1\xb3")) return VIDEO;
	if (p[0] == 0 && (IS(p + 4, "moov") || IS(p + 4, "mdat") || IS(p + 4, "moof") || IS(p + 4, "styp") || IS(p + 4, "wide"))) return VIDEO;
	if (IS(p, "BM") && (p[6] | p[7] | p[8] | p[9]) == 0 && (what == LONG_TEXT || p[10] == 54 || p[10] == 122 || p[10] == 138)) return IMAGE;
	if (what == SHORT_TEXT) return NOTHING;
	if (start_code(p, n, 0) || (what == LONG_TEXT && IS(p, "\0\0\0\1"))) return VIDEO;
	if (audio_frame(p, n) || (what == LONG_TEXT && (IS(p, "ID3") || IS(p, "\xff\xfb")))) return AUDIO;
	return NOTHING;
}

/* ---- texts ---- */

/* Decodes what it can of the n characters at p; how many bytes that is. */
static uint32_t decode(uint8_t *out, const uint8_t *p, uint32_t n, int hex) {
	uint32_t len = 0, each = hex ? 2 : 4;
	for (; n >= each && len < HEAD; p += each, n -= each) {
		uint32_t w = 0;
		for (uint32_t i = 0; i < each; i++) {
			if (!(class[p[i]] & (hex ? DIGIT : SIX))) return len;
			w = hex ? w << 4 | digit[p[i]] : w << 6 | six[p[i]];
		}
		if (!hex) {
			out[len++] = (uint8_t)(w >> 16);
			out[len++] = (uint8_t)(w >> 8);
		}
		out[len++] = (uint8_t)w;
	}
	return len;
}

/* What a text of total characters is, of which the first n stand at p. */
static int judge_text(const uint8_t *p, uint32_t n, uint32_t total, int depth) {
	uint8_t head[HEAD + 3];
	if (n > 5 && IS(p, "data:")) {
		if (n >= 11 && IS(p + 5, "image/")) return IMAGE;
		if (n >= 11 && IS(p + 5, "video/")) return VIDEO;
		if (n >= 11 && IS(p + 5, "audio/")) return AUDIO;
		uint32_t i = 5;
		while (i < n && p[i] != ',') i++;
		if (i == n) return NOTHING;
		p += i + 1, n -= i + 1, total -= i + 1;
	}
	int kind = judge(p, n, SHORT_TEXT), what = total > LONG ? LONG_TEXT : SHORT_TEXT;
	if (kind) return kind;
	for (int hex = 0; hex < 2; hex++) {
		uint32_t len = decode(head, p, n, hex);
		kind = judge(head, len, what);
		if (!kind && depth == 0 && len >= 16) kind = judge_text(head, len, total * 3 / 4, 1);
		if (kind) return kind;
	}
	return NOTHING;
}

static void see(int kind) { found |= (uint8_t)(1u << kind); }

/* The JSON string whose first character stands at i: escapes taken out, white space left out. Where it ends. */
static uint32_t see_string(const uint8_t *p, uint32_t n, uint32_t i) {
	uint8_t head[HEAD], run[HEAD];
	uint32_t len = 0, total = 0, run_len = 0, escaped = 0; /* of a run of Base64, with what the escapes in it stand for */
	for (; i < n && p[i] != '"'; i++, total++) {
		uint32_t c = p[i], escape = c == '\\';
		if (c == '\\' && i + 1 < n) {
			c = p[++i];
			if (c == 'u' && i + 4 < n) {
				c = 0;
				for (int k = 0; k < 4; k++) c = c << 4 | digit[p[++i]];
			} else if (c == 'n' || c == 'r' || c == 't') {
				if (len >= 16) continue; /* lines of Base64; at the beginning it may be part of a magic */
				c = c == 'n' ? '\n' : c == 'r' ? '\r' : '\t';
			} else if (c == 'b' || c == 'f') c = c == 'b' ? 8 : 12;
		} else if ((c == 0xc2 || c == 0xc3) && i + 1 < n && (p[i + 1] & 0xc0) == 0x80) c = (c & 3) << 6 | (p[++i] & 0x3f); /* a byte, written as a character */
		if (len < HEAD) head[len++] = (uint8_t)c;
		if (c < 256 && class[c] & SIX) {
			if (run_len < HEAD) run[run_len++] = (uint8_t)c;
			escaped |= escape;
			continue;
		}
		if (escaped && run_len >= 20) see(judge_text(run, run_len, LONG, 0));
		run_len = escaped = 0;
	}
	if (escaped && run_len >= 20) see(judge_text(run, run_len, LONG, 0));
	if (len >= 12) see(judge_text(head, len, total, 0));
	return i;
}

/* A JSON array of bytes whose first element stands at i. */
static void see_array(const uint8_t *p, uint32_t n, uint32_t i) {
	uint8_t head[HEAD];
	uint32_t len = 0;
	while (i < n && len < HEAD) {
		uint32_t v = 0, digits = 0;
		while (i < n && (p[i] == ' ' || p[i] == '\n' || p[i] == '\r' || p[i] == '\t')) i++;
		int sign = i < n && p[i] == '-'; /* signed bytes */
		i += (uint32_t)sign;
		for (; i < n && p[i] >= '0' && p[i] <= '9' && digits < 4; i++, digits++) v = v * 10 + (p[i] - '0');
		if (digits == 0 || v > 255) break;
		head[len++] = (uint8_t)(sign ? 256 - v : v);
		while (i < n && (p[i] == ' ' || p[i] == '\n' || p[i] == '\r' || p[i] == '\t')) i++;
		if (i == n || p[i] != ',') break;
		i++;
	}
	see(judge(head, len, len > LONG ? LONG_TEXT : SHORT_TEXT));
}

static void filter(const sluice_request *r, sluice_verdict *v) {
	uint32_t n, run = 0;
	const uint8_t *p = sluice_payload(r, &n);
	if (!configured || (!p && r->payload_len > 0)) {
		sluice_fail(v);
		return;
	}
	found = 0;
	if (n > 0) {
		see(judge(p, n, BODY));
		see(judge_text(p, n < HEAD ? n : HEAD, n, 0));
		if (n > 376 && p[0] == 0x47 && p[188] == 0x47 && p[376] == 0x47) see(VIDEO); /* MPEG transport stream */
	}
	for (uint32_t i = 0; i < n; i++) {
		uint8_t c = p[i], is = class[c];
		if (is & ANYWHERE) see(strong(p + i, n - i, i));
		if (is & SIX) run++;
		else {
			if (run >= 20) see(judge_text(p + i - run, run < HEAD ? run : HEAD, LONG, 0)); /* in the middle of a text short magic counts for nothing */
			run = 0;
		}
		if (c == '[') see_array(p, n, i + 1);
	}
	if (run >= 20) see(judge_text(p + n - run, run < HEAD ? run : HEAD, LONG, 0));
	for (uint32_t i = 0; i < n; i++)
		if (p[i] == '"') i = see_string(p, n, i + 1);
	if (!(found & ~1u) && r->flags & SLUICE_PAYLOAD_CUT) sluice_fail(v);
	for (uint16_t kind = IMAGE; kind < KINDS; kind++) {
		if (!(found & 1u << kind)) continue;
		if (actions[kind] == 3) sluice_block(v, kind);
		if (actions[kind] == 2) sluice_hold(v, kind);
	}
}

SLUICE_FILTER(filter)

SMALL static int32_t configure(const uint8_t *json, uint32_t len) {
	static const char *const kinds[] = {"image", "video", "audio"};
	json_reader r = {json, json + len, 0};
	uint32_t seen = 0;
	char text[16];
	configured = 0;
	fill_tables();
	actions[IMAGE] = actions[VIDEO] = actions[AUDIO] = 2;
	json_expect(&r, '{');
	if (json_peek(&r) == '}') r.p++;
	else do {
		uint32_t bit = json_key(&r, kinds, 3, &seen);
		json_string(&r, text, sizeof text);
		uint8_t action = json_is(text, "hold") ? 2 : json_is(text, "block") ? 3 : json_is(text, "none") ? 1 : 0;
		if (!action) json_fail(&r, "action is none of hold, block, none");
		actions[bit == 4 ? AUDIO : bit == 2 ? VIDEO : IMAGE] = action;
	} while (json_more(&r, '}'));
	json_end(&r);
	if (r.error) return sluice_refuse(r.error);
	configured = 1;
	return 0;
}

SLUICE_CONFIGURE(configure)
