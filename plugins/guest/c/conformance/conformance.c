//go:build ignore

/* conformance: does what the topic of a message says, for the vectors of plugins/conformance. The words are described there. */
#define SLUICE_IN_BYTES 131072
#include "../sluice.h"

typedef struct {
	const uint8_t *p, *end;
	int bad;
} words;

static int next(words *w, uint8_t c) {
	if (w->p == w->end || *w->p != c) return 0;
	w->p++;
	return 1;
}

static int word(words *w, const char *s) {
	const uint8_t *p = w->p;
	for (; *s; s++, p++)
		if (p == w->end || *p != (uint8_t)*s) return 0;
	w->p = p;
	return 1;
}

static uint32_t number(words *w) {
	uint32_t n = 0;
	const uint8_t *from = w->p;
	for (; w->p < w->end && *w->p >= '0' && *w->p <= '9'; w->p++) n = 10 * n + (*w->p - '0');
	if (w->p == from) w->bad = 1;
	return n;
}

/* Nothing is repeated more often: whoever damages a number gets an answer, no endless loop. */
static void bounded(words *w, uint32_t n) {
	if (n > 8192) w->bad = 1;
}

/* " N" */
static uint32_t argument(words *w) {
	if (!next(w, ' ')) w->bad = 1;
	return number(w);
}

enum { MASK = 1, GENERALIZE, TOKENIZE, ENCRYPT, REPLACE, REMOVE, REGRADE };

static void edit(sluice_verdict *v, sluice_edit_target t, int op, uint32_t a, uint32_t b) {
	static uint8_t bytes[512];
	switch (op) {
	case MASK: sluice_mask(v, t, a); break;
	case GENERALIZE: sluice_generalize(v, t, a); break;
	case TOKENIZE: sluice_tokenize(v, t, a); break;
	case ENCRYPT: sluice_encrypt(v, t, a); break;
	case REPLACE:
		for (uint32_t i = 0; i < a && i < sizeof bytes; i++) bytes[i] = (uint8_t)b;
		sluice_replace(v, t, bytes, a < sizeof bytes ? a : sizeof bytes);
		break;
	case REMOVE: sluice_remove(v, t); break;
	case REGRADE: sluice_regrade(v, t, (uint8_t)a); break;
	}
}

/* " N", " N..M", " OFF+LEN" or " OFF+LENxCOUNT", and what the operation takes */
static void edits(words *w, sluice_verdict *v, int op) {
	uint32_t from = argument(w), to = from, length = 0, count = 1, a = 0, b = 0;
	int range = 0;
	if (word(w, "..")) to = number(w);
	else if (next(w, '+')) {
		range = 1;
		length = number(w);
		if (next(w, 'x')) count = number(w);
	}
	if (op != REMOVE) a = argument(w);
	if (op == REPLACE) b = argument(w);
	bounded(w, range ? count : from < to ? to - from : from - to);
	if (w->bad) return;
	if (range) {
		for (uint32_t i = 0; i < count; i++) edit(v, sluice_range(from + i * length, length), op, a, b);
		return;
	}
	for (;; from += from < to ? 1 : -1) {
		edit(v, sluice_target(from), op, a, b);
		if (from == to) return;
	}
}

static uint32_t hash;

static void sum(const void *at, uint32_t n) {
	const uint8_t *p = at;
	for (uint32_t i = 0; i < n; i++) hash = (hash ^ p[i]) * 16777619;
}

static void sum8(uint8_t n) { sum(&n, 1); }
static void sum16(uint16_t n) { sum(&n, 2); }
static void sum32(uint32_t n) { sum(&n, 4); }
static void sum64(uint64_t n) { sum(&n, 8); }
static void sum_bytes(const uint8_t *p, uint32_t n) {
	sum32(n);
	sum(p, n);
}

/* Everything that the readers give, as one number: reason and label of the verdict. */
static void sum_all(const sluice_request *r, sluice_verdict *v) {
	uint32_t n;
	hash = 2166136261;
	sum64(r->msg_id);
	sum64((uint64_t)r->time_ms);
	sum8(r->protocol);
	sum8(r->encoding);
	sum8(r->grade);
	sum8(r->flags);
	sum32(r->payload_len);
	sum_bytes(r->topic, r->topic_len);
	sum_bytes(r->source, r->source_len);
	sum32(r->labels_n);
	for (uint32_t i = 0; i < r->labels_n; i++) sum16(sluice_label_at(r, i));
	sum32(r->findings_n);
	for (uint32_t i = 0; i < r->findings_n; i++) {
		sluice_finding f;
		sluice_position at;
		sluice_finding_at(r, i, &f);
		sum32(f.off);
		sum32(f.len);
		sum16(f.label);
		sum8(f.kind);
		sum8(f.confidence);
		sum8(f.grade);
		sum8(f.flags);
		sum_bytes(f.key, f.key_len);
		sum_bytes(f.value, f.value_len);
		if (sluice_finding_position(&f, &at)) {
			sum(&at.lat, 8);
			sum(&at.lon, 8);
			sum32(at.datum);
		}
	}
	const uint8_t *payload = sluice_payload(r, &n);
	sum_bytes(payload, n);
	sluice_reason(v, (uint16_t)hash);
	sluice_label(v, (uint16_t)(1 + (hash >> 16) % 65535));
}

static void command(words *w, const sluice_request *r, sluice_verdict *v) {
	if (word(w, "none")) sluice_none(v);
	else if (word(w, "sum")) sum_all(r, v);
	else if (word(w, "block")) sluice_block(v, (uint16_t)argument(w));
	else if (word(w, "hold")) sluice_hold(v, (uint16_t)argument(w));
	else if (word(w, "reason")) sluice_reason(v, (uint16_t)argument(w));
	else if (word(w, "grade")) sluice_grade(v, (uint8_t)argument(w));
	else if (word(w, "label")) {
		uint32_t from = argument(w), to = from;
		if (word(w, "..")) to = number(w);
		bounded(w, to - from);
		for (; !w->bad && from <= to; from++) sluice_label(v, (uint16_t)from);
	} else if (word(w, "mask")) edits(w, v, MASK);
	else if (word(w, "generalize")) edits(w, v, GENERALIZE);
	else if (word(w, "tokenize")) edits(w, v, TOKENIZE);
	else if (word(w, "encrypt")) edits(w, v, ENCRYPT);
	else if (word(w, "replace")) edits(w, v, REPLACE);
	else if (word(w, "remove")) edits(w, v, REMOVE);
	else if (word(w, "regrade")) edits(w, v, REGRADE);
	else if (word(w, "fail")) sluice_fail(v);
	else if (word(w, "trap")) __builtin_trap();
	else w->bad = 1;
}

static void filter(const sluice_request *r, sluice_verdict *v) {
	words w = {r->topic, r->topic + r->topic_len, 0};
	while (w.p < w.end && *w.p != '#' && !w.bad) {
		command(&w, r, v);
		if (w.p < w.end && *w.p != '#' && !next(&w, ';')) w.bad = 1;
	}
	if (w.bad) sluice_fail(v);
}

/* {"refuse": …} is refused, everything else accepted. */
static int32_t configure(const uint8_t *json, uint32_t len) {
	words w = {json, json + len, 0};
	for (; w.p < w.end; w.p++)
		if (word(&w, "refuse")) return sluice_refuse("refused, as told");
	return 0;
}

SLUICE_FILTER(filter)
SLUICE_CONFIGURE(configure)
