/* sluice.h: the author's side of the Sluice filter-plugin ABI, version 1, for C and C++ without a C library.
 *
 *   #include "sluice.h"
 *
 *   static void filter(const sluice_request *r, sluice_verdict *v) {
 *       sluice_finding f;
 *       for (uint32_t i = 0; i < r->findings_n; i++) {
 *           sluice_finding_at(r, i, &f);
 *           if (f.label == 1) sluice_regrade(v, sluice_target(i), SLUICE_IMPORTANT);
 *       }
 *   }
 *   SLUICE_FILTER(filter)
 *
 * Build: clang --target=wasm32 -O2 -nostdlib -ffreestanding -fvisibility=hidden -mbulk-memory -Wl,--no-entry -Wl,--strip-all
 * and the manifest put into the module by "sluice plugin pack" (build.sh beside this file). Include the header in exactly one file of a plugin.
 *
 * What holds. The filter is called once per message, by one thread at a time, and keeps nothing from one message to
 * the next: the host may drop the instance between any two. A record that does not keep the ABI's rules never reaches
 * it: every offset and length of the request is checked first (-1), so the readers below cannot leave the record.
 * The verdict starts as "no objection"; a filter can only add to it. Edits may be given in any order, one per finding.
 * A mistake of the filter (two edits of one finding, a finding that is not there, too many edits) makes the whole
 * verdict an error, the first mistake decides which, and the message then takes the operator's on_error path; nothing
 * partly written counts.
 *
 * Regions: SLUICE_IN_BYTES and SLUICE_OUT_BYTES may be defined before the header is included, multiples of 8.
 */
#ifndef SLUICE_H
#define SLUICE_H

#include <stdint.h>

#ifndef SLUICE_IN_BYTES
#define SLUICE_IN_BYTES 65536
#endif
#ifndef SLUICE_OUT_BYTES
#define SLUICE_OUT_BYTES 65536
#endif

enum { SLUICE_GENERAL = 1, SLUICE_IMPORTANT = 2, SLUICE_CORE = 3 };                                         /* grades; 0 in a request: treat as core */
enum { SLUICE_MQTT = 1, SLUICE_OPCUA = 2, SLUICE_GBT32960 = 3, SLUICE_JTT808 = 4 };                         /* protocols */
enum { SLUICE_JSON = 1, SLUICE_CBOR = 2, SLUICE_PROTOBUF = 3, SLUICE_BINARY_FRAME = 4, SLUICE_TEXT = 5 };   /* encodings */
enum { SLUICE_STRING = 1, SLUICE_NUMBER = 2, SLUICE_BOOL = 3, SLUICE_BYTES = 4, SLUICE_SUBTREE = 5 };       /* kinds */
enum { SLUICE_PAYLOAD_PRESENT = 1, SLUICE_PAYLOAD_CUT = 2, SLUICE_REPLAY = 4, SLUICE_SHADOW = 8 };          /* request flags */
enum { SLUICE_PERSONAL = 1, SLUICE_SENSITIVE = 2 };                                                         /* finding flags */
enum { SLUICE_UNKNOWN_DATUM = 0, SLUICE_WGS84 = 1, SLUICE_GCJ02 = 2, SLUICE_BD09 = 3 };                     /* datums */
enum { SLUICE_MALFORMED = -1, SLUICE_VERSION = -2, SLUICE_TOO_SMALL = -3, SLUICE_INTERNAL = -4 };           /* errors */

/* One message as the host shows it. All pointers lead into the record and are void after the call. */
typedef struct {
	uint64_t msg_id;
	int64_t time_ms; /* the only clock there is */
	uint8_t protocol, encoding, grade, flags;
	uint32_t payload_len; /* true length, also when the payload is absent */
	uint32_t findings_n, labels_n;
	const uint8_t *topic;  /* topic, node id or frame name */
	const uint8_t *source; /* the device, as a pseudonym unless read.source is granted */
	uint32_t topic_len, source_len;
	const uint8_t *record; /* for the readers below */
	uint32_t record_len, header_len, findings_off, labels_off, payload_off;
} sluice_request;

/* One place of the message that a category matched. label: 1 + index in the manifest's labels, 0 = not listed. */
typedef struct {
	uint32_t off, len; /* in the payload */
	uint16_t label;
	uint8_t kind, confidence, grade, flags;
	const uint8_t *key; /* field name, key_len 0 when there is none or it is itself a value that was not granted */
	uint32_t key_len;
	const uint8_t *value; /* null unless read.value of the category is granted */
	uint32_t value_len;
} sluice_finding;

typedef struct {
	double lat, lon; /* degrees */
	uint32_t datum;
} sluice_position;

/* What an edit is about: a finding, or a range of the payload (needs read.payload). */
typedef struct {
	uint8_t kind;
	uint32_t a, b;
} sluice_edit_target;

/* The verdict under construction. Its edits grow in the out region. */
typedef struct {
	uint8_t action, grade, bad; /* bad: an error code without its sign */
	uint16_t reason;
	uint32_t edits_n, labels_n, pool_n, findings_n, payload_len;
	uint32_t payload_present;
	uint16_t labels[64];
} sluice_verdict;

static uint8_t sluice_in[SLUICE_IN_BYTES] __attribute__((aligned(8)));
static uint8_t sluice_out[SLUICE_OUT_BYTES] __attribute__((aligned(8)));
static uint32_t sluice_out_cap; /* what the host asked for */
static uint32_t sluice_in_cap;

static inline uint16_t sluice_u16(const uint8_t *p) { uint16_t v; __builtin_memcpy(&v, p, 2); return v; }
static inline uint32_t sluice_u32(const uint8_t *p) { uint32_t v; __builtin_memcpy(&v, p, 4); return v; }
static inline uint64_t sluice_u64(const uint8_t *p) { uint64_t v; __builtin_memcpy(&v, p, 8); return v; }
static inline double sluice_f64(const uint8_t *p) { double v; __builtin_memcpy(&v, p, 8); return v; }
static inline void sluice_put16(uint8_t *p, uint16_t v) { __builtin_memcpy(p, &v, 2); }
static inline void sluice_put32(uint8_t *p, uint32_t v) { __builtin_memcpy(p, &v, 4); }
static inline void sluice_put64(uint8_t *p, uint64_t v) { __builtin_memcpy(p, &v, 8); }

/* Whether [off, off+n) lies in a record of len bytes. */
static inline int sluice_within(uint64_t off, uint64_t n, uint64_t len) { return off + n <= len; }

/* Reads and checks the record of len bytes in the in region. 0, or an error. */
static inline int32_t sluice_parse(sluice_request *r, uint32_t len) {
	const uint8_t *p = sluice_in;
	if (len > sluice_in_cap || len < 8 || sluice_u32(p) != len) return SLUICE_MALFORMED;
	if (sluice_u16(p + 4) != 1) return SLUICE_VERSION;
	uint32_t head = sluice_u16(p + 6);
	if (head < 64 || head > len) return SLUICE_MALFORMED;
	r->record = p;
	r->record_len = len;
	r->header_len = head;
	r->msg_id = sluice_u64(p + 8);
	r->time_ms = (int64_t)sluice_u64(p + 16);
	r->protocol = p[24];
	r->encoding = p[25];
	r->grade = p[26];
	r->flags = p[27];
	r->payload_len = sluice_u32(p + 28);
	r->payload_off = sluice_u32(p + 32);
	r->findings_off = sluice_u32(p + 36);
	r->findings_n = sluice_u16(p + 40);
	r->labels_n = sluice_u16(p + 42);
	r->labels_off = sluice_u32(p + 44);
	uint32_t topic_off = sluice_u32(p + 48), source_off = sluice_u32(p + 56);
	r->topic_len = sluice_u16(p + 52);
	r->source_len = sluice_u16(p + 54);
	r->topic = p + topic_off;
	r->source = p + source_off;
	if (r->grade > SLUICE_CORE || sluice_u32(p + 60) != 0 || ((r->flags & SLUICE_PAYLOAD_PRESENT) != 0) != (r->payload_off != 0)) return SLUICE_MALFORMED;
	if (!sluice_within(r->findings_off, (uint64_t)r->findings_n * 32, len) || !sluice_within(r->labels_off, (uint64_t)r->labels_n * 2, len) ||
	    !sluice_within(topic_off, r->topic_len, len) || !sluice_within(source_off, r->source_len, len) ||
	    (r->payload_off && !sluice_within(r->payload_off, r->payload_len, len)))
		return SLUICE_MALFORMED;
	for (uint32_t i = 0; i < r->findings_n; i++) {
		const uint8_t *f = p + r->findings_off + 32 * i;
		if (!sluice_within(sluice_u32(f), sluice_u32(f + 4), r->payload_len) || !sluice_within(sluice_u32(f + 16), sluice_u16(f + 14), len) ||
		    !sluice_within(sluice_u32(f + 20), sluice_u32(f + 24), len))
			return SLUICE_MALFORMED;
	}
	return 0;
}

/* Label i of the whole message; i < labels_n. */
static inline uint16_t sluice_label_at(const sluice_request *r, uint32_t i) { return sluice_u16(r->record + r->labels_off + 2 * i); }

/* Finding i; i < findings_n. */
static inline void sluice_finding_at(const sluice_request *r, uint32_t i, sluice_finding *f) {
	const uint8_t *p = r->record + r->findings_off + 32 * i;
	uint32_t value = sluice_u32(p + 20);
	f->off = sluice_u32(p);
	f->len = sluice_u32(p + 4);
	f->label = sluice_u16(p + 8);
	f->kind = p[10];
	f->confidence = p[11];
	f->grade = p[12];
	f->flags = p[13];
	f->key_len = sluice_u16(p + 14);
	f->key = r->record + sluice_u32(p + 16);
	f->value = value ? r->record + value : 0;
	f->value_len = value ? sluice_u32(p + 24) : 0;
}

/* The position that a finding is half of; 0 when there is none, it was not granted, or it is no place on earth. */
static inline int sluice_finding_position(const sluice_finding *f, sluice_position *pos) {
	if (!f->value || f->value_len != 20) return 0;
	pos->lat = sluice_f64(f->value);
	pos->lon = sluice_f64(f->value + 8);
	pos->datum = sluice_u32(f->value + 16);
	return pos->datum <= SLUICE_BD09 && pos->lat >= -90 && pos->lat <= 90 && pos->lon >= -180 && pos->lon <= 180;
}

/* The payload, null when it was not granted. */
static inline const uint8_t *sluice_payload(const sluice_request *r, uint32_t *len) {
	*len = r->payload_off ? r->payload_len : 0;
	return r->payload_off ? r->record + r->payload_off : 0;
}

static inline sluice_edit_target sluice_target(uint32_t finding) { sluice_edit_target t = {0, finding, 0}; return t; }
static inline sluice_edit_target sluice_range(uint32_t off, uint32_t len) { sluice_edit_target t = {1, off, len}; return t; }

/* The first mistake decides how the call ends. */
static inline void sluice_mistake(sluice_verdict *v, int32_t error) { if (!v->bad) v->bad = (uint8_t)-error; }

/* The policy decides: how a verdict starts, and what it stays when nothing is added. It takes nothing back. */
static inline void sluice_none(sluice_verdict *v) { (void)v; }

/* Message: block and hold keep it here, for a reason of the manifest (0 = none); block beats hold, the first of each gives the reason. */
static inline void sluice_block(sluice_verdict *v, uint16_t reason) { if (v->action < 3) { v->action = 3; v->reason = reason; } }
static inline void sluice_hold(sluice_verdict *v, uint16_t reason) { if (v->action < 2) { v->action = 2; v->reason = reason; } }

/* Says why, also without an objection: a code of the manifest's reasons. */
static inline void sluice_reason(sluice_verdict *v, uint16_t reason) { v->reason = reason; }

/* The least grade of everything in the message; the highest call wins. */
static inline void sluice_grade(sluice_verdict *v, uint8_t grade) {
	if (grade < SLUICE_GENERAL || grade > SLUICE_CORE) sluice_mistake(v, SLUICE_INTERNAL);
	else if (grade > v->grade) v->grade = grade;
}

/* Puts a category of the manifest on the message as a whole, once. */
static inline void sluice_label(sluice_verdict *v, uint16_t label) {
	for (uint32_t i = 0; i < v->labels_n; i++) if (v->labels[i] == label) return;
	if (label == 0 || v->labels_n == 64) { sluice_mistake(v, SLUICE_INTERNAL); return; }
	v->labels[v->labels_n++] = label;
}

/* Edits grow from the front of the out region, replacements from its end, until they meet. */
static inline int sluice_room(const sluice_verdict *v, uint32_t more) { return 16 + 16 * v->edits_n + v->pool_n + more <= sluice_out_cap; }

static inline void sluice_edit(sluice_verdict *v, sluice_edit_target t, uint8_t op, uint32_t param) {
	uint8_t *e = sluice_out + 16 + 16 * v->edits_n;
	if (t.kind == 0 ? t.a >= v->findings_n : !v->payload_present || t.b == 0 || !sluice_within(t.a, t.b, v->payload_len)) { sluice_mistake(v, SLUICE_INTERNAL); return; }
	if (v->edits_n == 4096 || !sluice_room(v, 16)) { sluice_mistake(v, SLUICE_TOO_SMALL); return; }
	e[0] = t.kind;
	e[1] = op;
	sluice_put16(e + 2, 0);
	sluice_put32(e + 4, t.a);
	sluice_put32(e + 8, t.b);
	sluice_put32(e + 12, param);
	v->edits_n++;
}

/* Edits: profile, domain and slot are ids of the operator's edits for this plugin. */
static inline void sluice_mask(sluice_verdict *v, sluice_edit_target t, uint32_t profile) { sluice_edit(v, t, 1, profile); }
static inline void sluice_generalize(sluice_verdict *v, sluice_edit_target t, uint32_t profile) { sluice_edit(v, t, 2, profile); }
static inline void sluice_tokenize(sluice_verdict *v, sluice_edit_target t, uint32_t domain) { sluice_edit(v, t, 3, domain); }
static inline void sluice_encrypt(sluice_verdict *v, sluice_edit_target t, uint32_t slot) { sluice_edit(v, t, 4, slot); }
static inline void sluice_remove(sluice_verdict *v, sluice_edit_target t) { sluice_edit(v, t, 6, 0); }

/* Raises the grade of one finding; the policy then acts on it. */
static inline void sluice_regrade(sluice_verdict *v, sluice_edit_target t, uint8_t grade) {
	if (grade < SLUICE_GENERAL || grade > SLUICE_CORE) sluice_mistake(v, SLUICE_INTERNAL);
	else sluice_edit(v, t, 7, grade);
}

/* Puts other bytes in place, at most 256; needs the grant replace. */
static inline void sluice_replace(sluice_verdict *v, sluice_edit_target t, const uint8_t *bytes, uint32_t n) {
	uint32_t edits = v->edits_n;
	if (n > 256) { sluice_mistake(v, SLUICE_INTERNAL); return; }
	sluice_edit(v, t, 5, v->pool_n);
	if (v->edits_n == edits) return;
	if (!sluice_room(v, 2 + n)) { v->edits_n = edits; sluice_mistake(v, SLUICE_TOO_SMALL); return; }
	uint8_t *end = sluice_out + sluice_out_cap - v->pool_n; /* back to front until sluice_finish turns it */
	*--end = (uint8_t)n;
	*--end = (uint8_t)(n >> 8);
	for (uint32_t i = 0; i < n; i++) *--end = bytes[i];
	v->pool_n += 2 + n;
}

/* Position of an edit in the order that the host wants: findings by index, then ranges by offset. */
static inline uint64_t sluice_edit_key(const uint8_t *e) { return (uint64_t)e[0] << 32 | sluice_u32(e + 4); }

/* Sorts n edits in place. A filter that walks the findings gives them in order: one pass then. */
static inline void sluice_sort(uint8_t *edits, uint32_t n) {
	static const uint16_t gaps[] = {1750, 701, 301, 132, 57, 23, 10, 4, 1};
	uint32_t sorted = 1;
	while (sorted < n && sluice_edit_key(edits + 16 * (sorted - 1)) <= sluice_edit_key(edits + 16 * sorted)) sorted++;
	for (uint32_t g = sorted < n ? 0 : sizeof gaps / sizeof *gaps; g < sizeof gaps / sizeof *gaps; g++)
		for (uint32_t gap = gaps[g], i = gap; i < n; i++) {
			uint64_t e[2] = {sluice_u64(edits + 16 * i), sluice_u64(edits + 16 * i + 8)};
			uint64_t key = sluice_edit_key(edits + 16 * i);
			uint32_t j = i;
			for (; j >= gap && sluice_edit_key(edits + 16 * (j - gap)) > key; j -= gap) {
				sluice_put64(edits + 16 * j, sluice_u64(edits + 16 * (j - gap)));
				sluice_put64(edits + 16 * j + 8, sluice_u64(edits + 16 * (j - gap) + 8));
			}
			sluice_put64(edits + 16 * j, e[0]);
			sluice_put64(edits + 16 * j + 8, e[1]);
		}
}

/* Turns the replacements front to back and puts them at to, padded with zeros. */
static inline void sluice_put_pool(uint32_t to, uint32_t n, uint32_t padded) {
	uint8_t *from = sluice_out + sluice_out_cap - n;
	for (uint32_t i = 0; i < n / 2; i++) {
		uint8_t b = from[i];
		from[i] = from[n - 1 - i];
		from[n - 1 - i] = b;
	}
	for (uint32_t i = 0; i < n; i++) sluice_out[to + i] = from[i];
	for (uint32_t i = n; i < padded; i++) sluice_out[to + i] = 0;
}

/* Sorts the edits, refuses overlaps, writes header, labels and replacements. The length of the verdict, or an error. */
static inline int32_t sluice_finish(sluice_verdict *v) {
	uint8_t *edits = sluice_out + 16, *labels = edits + 16 * v->edits_n;
	uint32_t labels_len = (2 * v->labels_n + 7) & ~7u, pool_len = (v->pool_n + 7) & ~7u, len = 16 + 16 * v->edits_n + labels_len + pool_len;
	if (v->bad) return -(int32_t)v->bad;
	if (len > sluice_out_cap) return SLUICE_TOO_SMALL;
	sluice_sort(edits, v->edits_n);
	for (uint32_t i = 1; i < v->edits_n; i++) {
		const uint8_t *a = edits + 16 * (i - 1), *b = a + 16;
		uint64_t end = sluice_edit_key(a) + (a[0] ? sluice_u32(a + 8) : 1);
		if (a[0] == b[0] && sluice_edit_key(b) < end) return SLUICE_INTERNAL;
	}
	sluice_put_pool(len - pool_len, v->pool_n, pool_len);
	for (uint32_t i = 0; i < labels_len / 8; i++) sluice_put64(labels + 8 * i, 0);
	for (uint32_t i = 0; i < v->labels_n; i++) sluice_put16(labels + 2 * i, v->labels[i]);
	sluice_put32(sluice_out, len);
	sluice_put16(sluice_out + 4, 1);
	sluice_out[6] = v->action;
	sluice_out[7] = v->grade;
	sluice_put16(sluice_out + 8, (uint16_t)v->edits_n);
	sluice_put16(sluice_out + 10, (uint16_t)v->labels_n);
	sluice_put16(sluice_out + 12, v->reason);
	sluice_put16(sluice_out + 14, 0);
	return (int32_t)len;
}

/* Makes the whole message an error of this plugin: it takes the operator's on_error path. */
static inline void sluice_fail(sluice_verdict *v) { sluice_mistake(v, SLUICE_INTERNAL); }

/* Starts the error text of a refused configuration in the out region. */
static inline int32_t sluice_refuse(const char *text) {
	uint32_t n = 0;
	for (; text[n] && n < 512 && 4 + n < sluice_out_cap; n++) sluice_out[4 + n] = (uint8_t)text[n];
	sluice_put32(sluice_out, n);
	return 1;
}

static inline int64_t sluice_arena_of(int32_t in_cap, int32_t out_cap) {
	if ((uint32_t)in_cap > SLUICE_IN_BYTES || (uint32_t)out_cap > SLUICE_OUT_BYTES || (uint32_t)out_cap < 16) return 0;
	sluice_in_cap = (uint32_t)in_cap;
	sluice_out_cap = (uint32_t)out_cap;
	return (int64_t)((uint64_t)(uintptr_t)sluice_in << 32 | (uint64_t)(uintptr_t)sluice_out);
}

static inline int32_t sluice_run(int32_t len, void (*fn)(const sluice_request *, sluice_verdict *)) {
	sluice_request r;
	sluice_verdict v;
	int32_t err = sluice_parse(&r, (uint32_t)len);
	if (err) return err;
	v.action = 1;
	v.grade = v.bad = 0;
	v.reason = 0;
	v.edits_n = v.labels_n = v.pool_n = 0;
	v.findings_n = r.findings_n;
	v.payload_len = r.payload_len;
	v.payload_present = r.payload_off != 0;
	fn(&r, &v);
	return sluice_finish(&v);
}

#ifdef __cplusplus
#define SLUICE_C extern "C"
#else
#define SLUICE_C
#endif
#define SLUICE_EXPORT(name) SLUICE_C __attribute__((export_name(#name), visibility("default")))

/* Entry of a plugin: void fn(const sluice_request *, sluice_verdict *). */
#define SLUICE_FILTER(fn)                                                                                                        \
	SLUICE_EXPORT(sluice_abi_v1) void sluice_abi_v1(void) {}                                                                     \
	SLUICE_EXPORT(sluice_arena) int64_t sluice_arena(int32_t in_cap, int32_t out_cap) { return sluice_arena_of(in_cap, out_cap); } \
	SLUICE_EXPORT(sluice_filter) int32_t sluice_filter(int32_t len) { return sluice_run(len, fn); }

/* Optional: int32_t fn(const uint8_t *json, uint32_t len), 0 = accepted, else the load fails; see sluice_refuse. */
#define SLUICE_CONFIGURE(fn) \
	SLUICE_EXPORT(sluice_configure) int32_t sluice_configure(int32_t len) { return (uint32_t)len > sluice_in_cap ? 1 : fn(sluice_in, (uint32_t)len); }

#endif
