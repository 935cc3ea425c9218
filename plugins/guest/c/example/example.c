//go:build ignore

/* example: shows most of what a plugin can do; the same plugin stands in every language of the kit.
 *
 * A message that lies in a sensitive area is blocked. Otherwise location fields are generalized, VINs tokenized, contacts
 * masked, each as edit 1, 2, 3 of the operator's list says. A message with more location fields than "hold_above" is held
 * for a person: it is a track, no position. Configuration, JSON: {"hold_above": 16}, 1 to 9999; 16 when absent.
 */
#include "../sluice.h"

enum { POINT = 1, TRACK, VIN, CONTACT, SENSITIVE_AREA }; /* labels of the manifest, from 1 */
enum { IN_SENSITIVE_AREA = 1, LONG_TRACK = 2 };          /* reasons of the manifest */
enum { COARSE = 1, FLEET = 2, HIDDEN = 3 };              /* ids of the operator's edits */

static uint32_t hold_above = 16;

static void filter(const sluice_request *r, sluice_verdict *v) {
	uint32_t locations = 0;
	for (uint32_t i = 0; i < r->labels_n; i++)
		if (sluice_label_at(r, i) == SENSITIVE_AREA) sluice_block(v, IN_SENSITIVE_AREA);
	for (uint32_t i = 0; i < r->findings_n; i++) {
		sluice_finding f;
		sluice_finding_at(r, i, &f);
		switch (f.label) {
		case POINT:
		case TRACK:
			sluice_generalize(v, sluice_target(i), COARSE);
			locations++;
			break;
		case VIN: sluice_tokenize(v, sluice_target(i), FLEET); break;
		case CONTACT: sluice_mask(v, sluice_target(i), HIDDEN); break;
		}
	}
	if (locations > hold_above) sluice_hold(v, LONG_TRACK);
}

static const uint8_t *blank(const uint8_t *p, const uint8_t *end) {
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
	return p;
}

/* Moves *p behind text and the blanks after it, when it stands there. */
static int take(const uint8_t **p, const uint8_t *end, const char *text) {
	const uint8_t *at = *p;
	for (; *text; text++, at++)
		if (at == end || *at != (uint8_t)*text) return 0;
	*p = blank(at, end);
	return 1;
}

static int32_t configure(const uint8_t *json, uint32_t len) {
	const uint8_t *end = json + len, *p = blank(json, end);
	uint32_t n = 16;
	if (!take(&p, end, "{")) return sluice_refuse("want an object");
	if (take(&p, end, "\"hold_above\"")) {
		if (!take(&p, end, ":")) return sluice_refuse("malformed JSON");
		const uint8_t *digits = p;
		for (n = 0; p < end && *p >= '0' && *p <= '9' && p - digits < 5; p++) n = 10 * n + (*p - '0');
		if (p == digits || *digits == '0' || n > 9999) return sluice_refuse("hold_above is no number from 1 to 9999");
		p = blank(p, end);
	}
	if (!take(&p, end, "}") || p != end) return sluice_refuse("want {\"hold_above\": NUMBER} and nothing else");
	hold_above = n;
	return 0;
}

SLUICE_FILTER(filter)
SLUICE_CONFIGURE(configure)
