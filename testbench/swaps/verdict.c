//go:build ignore

/* A plugin whose verdict says which version gave it: the reason is the serial. Odd serials have every location coarsened,
 * even ones block every eighth message. Both numbers below are replaced in the module, so that every version is code of its own.
 */
#include "sluice.h"

enum { ORDINARY, GENTLE, BLOCKS, TRAPS }; /* GENTLE: without blocking */
enum { COARSE = 1 };                      /* id of the operator's edit */

static volatile const uint32_t serial = 0x51A1CE01, does = 0x51A1CE02;

static void filter(const sluice_request *r, sluice_verdict *v) {
	uint32_t n = serial, what = does;
	if (what == TRAPS) __builtin_trap();
	if (what == BLOCKS || (what == ORDINARY && n % 2 == 0 && r->msg_id % 8 == 0)) sluice_block(v, (uint16_t)n);
	sluice_reason(v, (uint16_t)n);
	for (uint32_t i = 0; n % 2 == 1 && i < r->findings_n; i++) {
		sluice_finding f;
		sluice_finding_at(r, i, &f);
		if (f.label == 1) sluice_generalize(v, sluice_target(i), COARSE);
	}
}

SLUICE_FILTER(filter)
