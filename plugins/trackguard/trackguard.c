//go:build ignore

/* trackguard: no more than so many precise positions of a device leave in a stretch of time.
 *
 * The host counts (plugins[].counts.track) and puts the label count:track on a message that would go beyond the count. This plugin
 * then asks for the same edit of every location finding of that message: "generalize" with the number of an edit of the operator, or
 * removal. Configuration, JSON: {"generalize": 1} or {"remove": true}; removal when neither stands there.
 *
 * A location finding on the body as a whole, without a place in it, cannot be edited: such a message is held.
 */
#include "../guest/c/sluice.h"
#include "../guest/c/json.h"

enum { COUNT = 1 }; /* label of the manifest; all others are categories of location */
enum { REASON_BEYOND = 1, REASON_WHOLE = 2 };
static uint8_t configured;
static uint32_t profile; /* 0: remove */

static void filter(const sluice_request *r, sluice_verdict *v) {
	int beyond = 0, whole = 0;
	if (!configured) {
		sluice_fail(v);
		return;
	}
	for (uint32_t i = 0; i < r->labels_n; i++) {
		uint16_t l = sluice_label_at(r, i);
		beyond |= l == COUNT;
		whole |= l > COUNT;
	}
	if (!beyond) return;
	sluice_reason(v, REASON_BEYOND);
	if (whole) sluice_hold(v, REASON_WHOLE);
	for (uint32_t i = 0; i < r->findings_n; i++) {
		sluice_finding f;
		sluice_finding_at(r, i, &f);
		if (f.label <= COUNT) continue;
		if (whole && f.len == r->payload_len && f.kind == SLUICE_SUBTREE && f.key_len == 0) continue; /* the body as a whole */
		if (profile) sluice_generalize(v, sluice_target(i), profile);
		else sluice_remove(v, sluice_target(i));
	}
}

SLUICE_FILTER(filter)

SMALL static int32_t configure(const uint8_t *json, uint32_t len) {
	static const char *const members[] = {"generalize", "remove"};
	json_reader r = {json, json + len, 0};
	uint32_t seen = 0;
	double n;
	configured = 0;
	profile = 0;
	json_expect(&r, '{');
	if (json_peek(&r) == '}') r.p++;
	else do switch (json_key(&r, members, 2, &seen)) {
		case 1:
			n = json_number(&r);
			if (!(n >= 1 && n <= 1000000 && n == (double)(uint32_t)n)) json_fail(&r, "generalize is no number of an edit");
			else profile = (uint32_t)n;
			break;
		case 2:
			if (!json_bool(&r)) json_fail(&r, "remove is not true");
			break;
		}
	while (json_more(&r, '}'));
	json_end(&r);
	if (seen == 3) json_fail(&r, "generalize and remove are both given");
	if (r.error) return sluice_refuse(r.error);
	configured = 1;
	return 0;
}

SLUICE_CONFIGURE(configure)
