// NAME: VINs leave as tokens, positions with two decimals; a message with many positions waits for a person.

import { Request, Verdict, main } from "./sluice/sluice";
export { sluice_abi_v1, sluice_arena, sluice_filter } from "./sluice/sluice";

// labels of manifest.json, from 1
const VIN: u16 = 1;
const POINT: u16 = 2;
const TRACK: u16 = 3;

// reasons of manifest.json
const MANY_POSITIONS: u16 = 1;

// numbers of the operator's edits, see plugin.yaml
const TOKEN_OF_FLEET: u32 = 1;
const COARSE: u32 = 2;

/** Positions that one message may have. */
const MOST: u32 = 2;

main((r: Request, v: Verdict) => {
  let fields: u32 = 0; // a position is two: latitude and longitude
  for (let i: u32 = 0; i < r.findingsLen; i++) {
    const f = r.finding(i);
    switch (f.label) {
      case VIN:
        v.tokenize(f.target(), TOKEN_OF_FLEET);
        break;
      case POINT:
      case TRACK:
        v.generalize(f.target(), COARSE);
        fields++;
        break;
    }
  }
  if (fields > 2 * MOST) v.hold(MANY_POSITIONS);
});
