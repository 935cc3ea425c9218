/* json.h: a strict reader for the configuration of a plugin, JSON in the in region. Used by the plugins beside the kit.
 *
 * It reads what the plugin expects, in a plugin's own recursive functions, and fails on anything else: unknown and
 * repeated keys, malformed JSON, another type. After the first error nothing more is read and every loop ends. Error texts
 * never quote what was read.
 */
#ifndef SLUICE_JSON_H
#define SLUICE_JSON_H

#include <stdint.h>

#define SMALL __attribute__((minsize, noinline)) /* runs once: small beats fast */

typedef struct {
	const uint8_t *p, *end;
	const char *error; /* the first one; texts never quote what was read */
} json_reader;

SMALL static inline void json_fail(json_reader *r, const char *error) {
	if (!r->error) r->error = error;
	r->p = r->end;
}

SMALL static inline uint8_t json_peek(json_reader *r) {
	while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n' || *r->p == '\r')) r->p++;
	return r->p < r->end ? *r->p : 0;
}

SMALL static inline void json_expect(json_reader *r, uint8_t c) {
	if (json_peek(r) == c) r->p++;
	else json_fail(r, "malformed JSON");
}

/* After an element: whether another one follows; else the closing bracket was read. */
SMALL static inline int json_more(json_reader *r, uint8_t close) {
	uint8_t c = json_peek(r);
	if (c != ',') {
		json_expect(r, close);
		return 0;
	}
	r->p++;
	return 1;
}

SMALL static inline void json_word(json_reader *r, const char *want) {
	for (; *want; want++, r->p++)
		if (r->p == r->end || *r->p != *want) {
			json_fail(r, "want true or false");
			return;
		}
}

SMALL static inline int json_digit(json_reader *r) { return r->p < r->end && *r->p >= '0' && *r->p <= '9'; }

SMALL static inline double json_number(json_reader *r) {
	double value = 0;
	int32_t exponent = 0, e = 0;
	uint32_t digits = 0;
	int negative = 0, e_negative = 0;
	if (json_peek(r) == '-') {
		negative = 1;
		r->p++;
	}
	if (!json_digit(r)) json_fail(r, "want a number");
	const uint8_t *start = r->p;
	uint64_t mantissa = 0;
	for (; json_digit(r); r->p++)
		if (digits < 18) mantissa = mantissa * 10 + (*r->p - '0'), digits += mantissa != 0;
		else exponent++;
	if (r->p - start > 1 && *start == '0') json_fail(r, "malformed JSON");
	if (r->p < r->end && *r->p == '.') {
		r->p++;
		if (!json_digit(r)) json_fail(r, "malformed JSON");
		for (; json_digit(r); r->p++)
			if (digits < 18) mantissa = mantissa * 10 + (*r->p - '0'), digits += mantissa != 0, exponent--;
	}
	if (r->p < r->end && (*r->p | 32) == 'e') {
		r->p++;
		if (r->p < r->end && (*r->p == '+' || *r->p == '-')) e_negative = *r->p++ == '-';
		if (!json_digit(r)) json_fail(r, "malformed JSON");
		for (; json_digit(r); r->p++)
			if (e < 1000) e = e * 10 + (*r->p - '0');
	}
	exponent += e_negative ? -e : e;
	value = (double)mantissa;
	double power = 1;
	for (int32_t i = exponent < 0 ? -exponent : exponent; i > 0 && power < 1e300; i--) power *= 10;
	value = exponent < 0 ? value / power : value * power;
	return negative ? -value : value;
}

SMALL static inline int json_among(uint8_t c, const char *set) {
	while (*set && (uint8_t)*set != c) set++;
	return *set != 0;
}

/* Reads a string; text gets it when it is shorter than size bytes and has no escapes, else it stays empty. */
SMALL static inline void json_string(json_reader *r, char *text, uint32_t size) {
	uint32_t n = 0;
	int plain = 1;
	json_expect(r, '"');
	for (; r->p < r->end && *r->p != '"'; r->p++) {
		if (*r->p < ' ') {
			json_fail(r, "malformed JSON");
			break;
		}
		if (*r->p == '\\') {
			uint32_t hex = 0;
			plain = 0;
			if (++r->p < r->end && *r->p == 'u') hex = 4;
			else if (r->p == r->end || !json_among(*r->p, "\"\\/bfnrt")) json_fail(r, "malformed JSON");
			for (; hex && r->p < r->end; hex--)
				if (++r->p == r->end || !json_among(*r->p, "0123456789abcdefABCDEF")) json_fail(r, "malformed JSON");
			if (r->p == r->end) break;
		} else if (n < size) text[n++] = (char)*r->p;
	}
	if (r->p == r->end) {
		json_fail(r, "malformed JSON");
		n = 0;
	} else r->p++;
	text[plain && n < size ? n : 0] = 0;
}

SMALL static inline int json_is(const char *a, const char *b) {
	for (; *a && *a == *b; a++, b++) {}
	return *a == *b;
}

/* Which of the names is the next key, as a bit; unknown and repeated keys are errors. */
SMALL static inline uint32_t json_key(json_reader *r, const char *const *names, uint32_t n, uint32_t *seen) {
	char text[16];
	json_string(r, text, sizeof text);
	json_expect(r, ':');
	for (uint32_t i = 0; i < n; i++)
		if (json_is(text, names[i])) {
			if (*seen & 1u << i) json_fail(r, "key stands twice");
			*seen |= 1u << i;
			return 1u << i;
		}
	json_fail(r, "unknown key");
	return 0;
}

/* Ends a configuration: nothing may follow. */
SMALL static inline void json_end(json_reader *r) {
	if (json_peek(r) != 0 || r->p != r->end) json_fail(r, "malformed JSON");
}

/* Reads true or false. */
SMALL static inline uint8_t json_bool(json_reader *r) {
	uint8_t yes = json_peek(r) == 't';
	json_word(r, yes ? "true" : "false");
	return yes;
}

#endif
