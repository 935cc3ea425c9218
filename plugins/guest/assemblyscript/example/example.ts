// example: shows most of what a plugin can do; the same plugin stands in every language of the kit.
//
// A message that lies in a sensitive area is blocked. Otherwise location fields are generalized, VINs tokenized, contacts
// masked, each as edit 1, 2, 3 of the operator's list says. A message with more location fields than "hold_above" is held
// for a person: it is a track, no position. Configuration, JSON: {"hold_above": 16}, 1 to 9999; 16 when absent.

import { Bytes, Request, Verdict, configuration, main, refuse } from "../sluice";
export { sluice_abi_v1, sluice_arena, sluice_configure, sluice_filter } from "../sluice";

// labels of the manifest, from 1
const POINT: u16 = 1;
const TRACK: u16 = 2;
const VIN: u16 = 3;
const CONTACT: u16 = 4;
const SENSITIVE_AREA: u16 = 5;

// reasons of the manifest
const IN_SENSITIVE_AREA: u16 = 1;
const LONG_TRACK: u16 = 2;

// ids of the operator's edits
const COARSE: u32 = 1;
const FLEET: u32 = 2;
const HIDDEN: u32 = 3;

let holdAbove: u32 = 16;

main((r: Request, v: Verdict) => {
  let locations: u32 = 0;
  for (let i: u32 = 0; i < r.labelsLen; i++) {
    if (r.label(i) == SENSITIVE_AREA) v.block(IN_SENSITIVE_AREA);
  }
  for (let i: u32 = 0; i < r.findingsLen; i++) {
    const f = r.finding(i);
    switch (f.label) {
      case POINT:
      case TRACK:
        v.generalize(f.target(), COARSE);
        locations++;
        break;
      case VIN:
        v.tokenize(f.target(), FLEET);
        break;
      case CONTACT:
        v.mask(f.target(), HIDDEN);
        break;
    }
  }
  if (locations > holdAbove) v.hold(LONG_TRACK);
});

let at: u32 = 0; // how far the configuration is read

function blank(s: Bytes): void {
  while (at < s.length && (s[at] == 0x20 || s[at] == 0x09 || s[at] == 0x0a || s[at] == 0x0d)) at++;
}

/** Goes behind text and the blanks after it, when it stands there. */
function take(s: Bytes, text: string): bool {
  if (!s.startsWith(text, at)) return false;
  at += text.length;
  blank(s);
  return true;
}

configuration((json: Bytes) => {
  let n: u32 = 16;
  at = 0;
  blank(json);
  if (!take(json, "{")) return refuse("want an object");
  if (take(json, '"hold_above"')) {
    if (!take(json, ":")) return refuse("malformed JSON");
    const from = at;
    for (n = 0; at < json.length && json[at] >= 0x30 && json[at] <= 0x39 && at - from < 5; at++) n = 10 * n + (json[at] - 0x30);
    if (at == from || json[from] == 0x30 || n > 9999) return refuse("hold_above is no number from 1 to 9999");
    blank(json);
  }
  if (!take(json, "}") || at != json.length) return refuse('want {"hold_above": NUMBER} and nothing else');
  holdAbove = n;
  return true;
});
