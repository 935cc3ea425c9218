/* NAME: VINs leave as tokens, positions with two decimals; a message with many positions waits for a person. */
#include "sluice/sluice.h"

enum { VIN = 1, POINT, TRACK };       /* labels of manifest.json, from 1 */
enum { MANY_POSITIONS = 1 };          /* reasons of manifest.json */
enum { TOKEN_OF_FLEET = 1, COARSE };  /* numbers of the operator's edits, see plugin.yaml */
enum { MOST = 2 };                    /* positions that one message may have */

static void filter(const sluice_request *r, sluice_verdict *v) {
	uint32_t fields = 0; /* a position is two: latitude and longitude */
	for (uint32_t i = 0; i < r->findings_n; i++) {
		sluice_finding f;
		sluice_finding_at(r, i, &f);
		switch (f.label) {
		case VIN: sluice_tokenize(v, sluice_target(i), TOKEN_OF_FLEET); break;
		case POINT:
		case TRACK:
			sluice_generalize(v, sluice_target(i), COARSE);
			fields++;
			break;
		}
	}
	if (fields > 2 * MOST) sluice_hold(v, MANY_POSITIONS);
}

SLUICE_FILTER(filter)
