// conformance: does what the topic of a message says, for the vectors of plugins/conformance. The words are described there.

import { Bytes, Request, Target, Verdict, configuration, finding, main, range, refuse } from "../sluice";
export { sluice_abi_v1, sluice_arena, sluice_configure, sluice_filter } from "../sluice";

let s: Bytes = new Bytes(); // the topic
let at: u32 = 0; // how far it is read
let bad: bool = false;

function word(text: string): bool {
  if (!s.startsWith(text, at)) return false;
  at += text.length;
  return true;
}

function number(): u32 {
  let n: u32 = 0;
  const from = at;
  for (; at < s.length && s[at] >= 0x30 && s[at] <= 0x39; at++) n = 10 * n + (s[at] - 0x30);
  if (at == from) bad = true;
  return n;
}

/** " N" */
function argument(): u32 {
  if (!word(" ")) bad = true;
  return number();
}

/** Nothing is repeated more often: whoever damages a number gets an answer, no endless loop. */
function bounded(n: u32): void {
  if (n > 8192) bad = true;
}

const MASK = 1;
const GENERALIZE = 2;
const TOKENIZE = 3;
const ENCRYPT = 4;
const REPLACE = 5;
const REMOVE = 6;
const REGRADE = 7;

const replacement = memory.data(512);

function edit(v: Verdict, t: Target, op: i32, a: u32, b: u32): void {
  switch (op) {
    case MASK:
      v.mask(t, a);
      break;
    case GENERALIZE:
      v.generalize(t, a);
      break;
    case TOKENIZE:
      v.tokenize(t, a);
      break;
    case ENCRYPT:
      v.encrypt(t, a);
      break;
    case REPLACE:
      memory.fill(replacement, <u8>b, min<u32>(a, 512));
      v.replace(t, replacement, min<u32>(a, 512));
      break;
    case REMOVE:
      v.remove(t);
      break;
    case REGRADE:
      v.regrade(t, <u8>a);
      break;
  }
}

/** " N", " N..M", " OFF+LEN" or " OFF+LENxCOUNT", and what the operation takes */
function edits(v: Verdict, op: i32): void {
  let from = argument(), to = from, length: u32 = 0, count: u32 = 1, ranged = false;
  if (word("..")) to = number();
  else if (word("+")) {
    ranged = true;
    length = number();
    if (word("x")) count = number();
  }
  const a: u32 = op != REMOVE ? argument() : 0;
  const b: u32 = op == REPLACE ? argument() : 0;
  bounded(ranged ? count : max<u32>(from, to) - min<u32>(from, to));
  if (bad) return;
  if (ranged) {
    for (let i: u32 = 0; i < count; i++) edit(v, range(from + i * length, length), op, a, b);
    return;
  }
  for (; ; from += from < to ? 1 : -1) {
    edit(v, finding(from), op, a, b);
    if (from == to) return;
  }
}

let hash: u32 = 0;

/** Adds the lowest size bytes of n. */
function sum(n: u64, size: i32): void {
  for (; size > 0; size--, n >>= 8) hash = (hash ^ <u32>(n & 0xff)) * 16777619;
}

function sumBytes(b: Bytes): void {
  sum(b.length, 4);
  for (let i: u32 = 0; i < b.length; i++) sum(b[i], 1);
}

/** Everything that the readers give, as one number: reason and label of the verdict. */
function sumAll(r: Request, v: Verdict): void {
  hash = 2166136261;
  sum(r.msgID, 8);
  sum(<u64>r.timeMS, 8);
  sum(r.protocol, 1);
  sum(r.encoding, 1);
  sum(r.grade, 1);
  sum(r.flags, 1);
  sum(r.payloadLen, 4);
  sumBytes(r.topic);
  sumBytes(r.source);
  sum(r.labelsLen, 4);
  for (let i: u32 = 0; i < r.labelsLen; i++) sum(r.label(i), 2);
  sum(r.findingsLen, 4);
  for (let i: u32 = 0; i < r.findingsLen; i++) {
    const f = r.finding(i);
    sum(f.off, 4);
    sum(f.len, 4);
    sum(f.label, 2);
    sum(f.kind, 1);
    sum(f.confidence, 1);
    sum(f.grade, 1);
    sum(f.flags, 1);
    sumBytes(f.key);
    sumBytes(f.value);
    if (f.position()) {
      sum(reinterpret<u64>(f.lat), 8);
      sum(reinterpret<u64>(f.lon), 8);
      sum(f.datum, 4);
    }
  }
  sumBytes(r.payload());
  v.reason(<u16>hash);
  v.label(<u16>(1 + (hash >> 16) % 65535));
}

function labels(v: Verdict): void {
  const from = argument(), to = word("..") ? number() : from;
  bounded(to - from);
  if (bad) return;
  for (let l: u64 = from; l <= <u64>to; l++) v.label(<u16>l);
}

function command(r: Request, v: Verdict): void {
  if (word("none")) v.none();
  else if (word("sum")) sumAll(r, v);
  else if (word("block")) v.block(<u16>argument());
  else if (word("hold")) v.hold(<u16>argument());
  else if (word("reason")) v.reason(<u16>argument());
  else if (word("grade")) v.grade(<u8>argument());
  else if (word("label")) labels(v);
  else if (word("mask")) edits(v, MASK);
  else if (word("generalize")) edits(v, GENERALIZE);
  else if (word("tokenize")) edits(v, TOKENIZE);
  else if (word("encrypt")) edits(v, ENCRYPT);
  else if (word("replace")) edits(v, REPLACE);
  else if (word("remove")) edits(v, REMOVE);
  else if (word("regrade")) edits(v, REGRADE);
  else if (word("fail")) v.fail();
  else if (word("trap")) unreachable();
  else bad = true;
}

main((r: Request, v: Verdict) => {
  s = r.topic;
  at = 0;
  bad = false;
  while (at < s.length && s[at] != 0x23 && !bad) {
    command(r, v);
    if (at < s.length && s[at] != 0x23 && !word(";")) bad = true;
  }
  if (bad) v.fail();
});

/** {"refuse": …} is refused, everything else accepted. */
configuration((json: Bytes) => {
  for (let i: u32 = 0; i < json.length; i++) {
    if (json.startsWith("refuse", i)) return refuse("refused, as told");
  }
  return true;
});
