// The author's side of the Sluice filter-plugin ABI, version 1, for AssemblyScript.
//
//   import { main, Request, Verdict, IMPORTANT } from "../sluice";
//   export { sluice_abi_v1, sluice_arena, sluice_filter } from "../sluice";
//
//   main((r: Request, v: Verdict) => {
//     for (let i: u32 = 0; i < r.findingsLen; i++) {
//       const f = r.finding(i);
//       if (f.label == 1) v.regrade(f.target(), IMPORTANT);
//     }
//   });
//
// What holds. The filter is called once per message, by one thread at a time, and keeps nothing from one message to the
// next: the host may drop the instance between any two. A record that does not keep the ABI's rules never reaches it: every
// offset and length of the request is checked first (-1). The verdict starts as "no objection"; a filter can only add to
// it. Edits may be given in any order, one per finding. A mistake of the filter (two edits of one finding, a finding that is
// not there, too many edits) makes the whole verdict an error, the first mistake decides which, and the message then takes
// the operator's on_error path; nothing partly written counts.
//
// Memory is never freed (runtime stub), so nothing may be allocated per message: the kit has one Request and one Verdict and
// uses them for every message, and a filter that makes objects, strings or arrays grows until it traps.

// Grades; 0 in a request: treat as core.
export const GENERAL: u8 = 1;
export const IMPORTANT: u8 = 2;
export const CORE: u8 = 3;

// Protocols.
export const MQTT: u8 = 1;
export const OPCUA: u8 = 2;
export const GBT32960: u8 = 3;
export const JTT808: u8 = 4;

// Encodings.
export const JSON: u8 = 1;
export const CBOR: u8 = 2;
export const PROTOBUF: u8 = 3;
export const BINARY_FRAME: u8 = 4;
export const TEXT: u8 = 5;

// Kinds of values.
export const STRING: u8 = 1;
export const NUMBER: u8 = 2;
export const BOOL: u8 = 3;
export const BYTES: u8 = 4;
export const SUBTREE: u8 = 5;

// Flags of a request.
export const PAYLOAD_PRESENT: u8 = 1;
export const PAYLOAD_CUT: u8 = 2;
export const REPLAY: u8 = 4;
export const SHADOW: u8 = 8;

// Flags of a finding.
export const PERSONAL: u8 = 1;
export const SENSITIVE: u8 = 2;

// Datums of a position.
export const UNKNOWN_DATUM: u32 = 0;
export const WGS84: u32 = 1;
export const GCJ02: u32 = 2;
export const BD09: u32 = 3;

const MALFORMED: i32 = -1;
const VERSION: i32 = -2;
const TOO_SMALL: i32 = -3;
const INTERNAL: i32 = -4;

const HEADER: u32 = 64;
const FINDING: u32 = 32;
const EDIT: u32 = 16;
const MAX_EDITS: u32 = 4096;
const MAX_LABELS: u32 = 64;
const MAX_REPLACEMENT: u32 = 256;
const MAX_REGION: u32 = 1 << 20;
const MAX_REFUSAL: u32 = 512;

let inAt: usize = 0;
let inCap: u32 = 0;
let outAt: usize = 0;
let outCap: u32 = 0;

/** Bytes that somebody else owns: they lie in the request and are void after the call. */
@unmanaged
export class Bytes {
  at: usize = 0;
  length: u32 = 0;

  /** Byte i; i < length. */
  @operator("[]")
  byte(i: u32): u8 {
    if (i >= this.length) unreachable();
    return load<u8>(this.at + i);
  }

  /** Whether they are those of an ASCII text. */
  equals(text: string): bool {
    return this.length == <u32>text.length && this.startsWith(text, 0);
  }

  /** Whether an ASCII text stands at from. */
  startsWith(text: string, from: u32 = 0): bool {
    const n = <u32>text.length;
    if (from > this.length || n > this.length - from) return false;
    for (let i: u32 = 0; i < n; i++) {
      if (<u16>load<u8>(this.at + from + i) != load<u16>(changetype<usize>(text) + 2 * i)) return false;
    }
    return true;
  }

  set(at: usize, length: u32): void {
    this.at = at;
    this.length = length;
  }
}

/** What an edit is about: a finding, or a range of the payload. finding() and range() make it. */
export type Target = u64;

/** The finding with this number. */
export function finding(index: u32): Target {
  return index;
}

/** A range of the payload; it needs read.payload. */
export function range(off: u32, length: u32): Target {
  return length ? ((<u64>length) << 32) | off : U32.MAX_VALUE; // a range of nothing is a finding that is never there
}

const theKey = new Bytes();
const theValue = new Bytes();

/** One place of the message that a category matched, as it stands in the record: void after the call. */
@unmanaged
export class Finding {
  readonly off: u32;
  readonly len: u32;
  /** 1 + index in the manifest's labels, 0 = not listed. */
  readonly label: u16;
  readonly kind: u8;
  readonly confidence: u8;
  readonly grade: u8;
  readonly flags: u8;
  private keyLen: u16;
  private keyOff: u32;
  private valOff: u32;
  private valLen: u32;

  /** Number of the finding in the message. */
  get index(): u32 {
    return <u32>(changetype<usize>(this) - request.findingsAt) / FINDING;
  }

  /** This finding as the target of an edit. */
  target(): Target {
    return finding(this.index);
  }

  /** Field name; empty when there is none or it is itself a value that was not granted. Good until the next key is asked for. */
  get key(): Bytes {
    theKey.set(inAt + this.keyOff, this.keyLen);
    return theKey;
  }

  /** Empty unless read.value of the category is granted. Good until the next value is asked for. */
  get value(): Bytes {
    theValue.set(this.valOff ? inAt + this.valOff : 0, this.valOff ? this.valLen : 0);
    return theValue;
  }

  /** Whether lat, lon and datum are the position that the finding is half of: granted, and a place on earth. */
  position(): bool {
    if (!this.valOff || this.valLen != 20) return false;
    return this.datum <= BD09 && this.lat >= -90 && this.lat <= 90 && this.lon >= -180 && this.lon <= 180;
  }

  /** Degrees; ask position() first. */
  get lat(): f64 {
    return load<f64>(inAt + this.valOff);
  }

  /** Degrees; ask position() first. */
  get lon(): f64 {
    return load<f64>(inAt + this.valOff, 8);
  }

  /** Ask position() first. */
  get datum(): u32 {
    return load<u32>(inAt + this.valOff, 16);
  }
}

/** Whether [off, off+n) lies in len bytes. */
function within(off: u32, n: u64, len: u32): bool {
  return <u64>off + n <= <u64>len;
}

/** One message as the host shows it. */
export class Request {
  msgID: u64 = 0;
  /** The only clock there is. */
  timeMS: i64 = 0;
  protocol: u8 = 0;
  encoding: u8 = 0;
  grade: u8 = 0;
  flags: u8 = 0;
  /** True length, also when the payload is absent. */
  payloadLen: u32 = 0;
  /** Topic, node id or frame name. */
  topic: Bytes = new Bytes();
  /** The device, as a pseudonym unless read.source is granted. */
  source: Bytes = new Bytes();
  labelsLen: u32 = 0;
  findingsLen: u32 = 0;

  private body: Bytes = new Bytes();
  private labelsAt: usize = 0;
  findingsAt: usize = 0;

  /** Reads and checks the record of len bytes in the in region: 0, or an error. */
  parse(len: u32): i32 {
    const p = inAt;
    if (len > inCap || len < 8 || load<u32>(p) != len) return MALFORMED;
    if (load<u16>(p, 4) != 1) return VERSION;
    const header: u32 = load<u16>(p, 6);
    if (header < HEADER || header > len) return MALFORMED;
    this.msgID = load<u64>(p, 8);
    this.timeMS = load<i64>(p, 16);
    this.protocol = load<u8>(p, 24);
    this.encoding = load<u8>(p, 25);
    this.grade = load<u8>(p, 26);
    this.flags = load<u8>(p, 27);
    this.payloadLen = load<u32>(p, 28);
    this.findingsLen = load<u16>(p, 40);
    this.labelsLen = load<u16>(p, 42);
    const payload = load<u32>(p, 32), findings = load<u32>(p, 36), labels = load<u32>(p, 44);
    const topic = load<u32>(p, 48), source = load<u32>(p, 56);
    this.topic.set(p + topic, load<u16>(p, 52));
    this.source.set(p + source, load<u16>(p, 54));
    this.body.set(payload ? p + payload : 0, payload ? this.payloadLen : 0);
    this.findingsAt = p + findings;
    this.labelsAt = p + labels;
    if (this.grade > CORE || load<u32>(p, 60) != 0 || ((this.flags & PAYLOAD_PRESENT) != 0) != (payload != 0)) return MALFORMED;
    if (
      !within(findings, <u64>this.findingsLen * FINDING, len) || !within(labels, <u64>this.labelsLen * 2, len) ||
      !within(topic, this.topic.length, len) || !within(source, this.source.length, len) || !within(payload, this.body.length, len)
    ) return MALFORMED;
    for (let i: u32 = 0; i < this.findingsLen; i++) {
      const f = this.findingsAt + FINDING * i;
      if (
        !within(load<u32>(f), load<u32>(f, 4), this.payloadLen) || !within(load<u32>(f, 16), load<u16>(f, 14), len) ||
        !within(load<u32>(f, 20), load<u32>(f, 24), len)
      ) return MALFORMED;
    }
    return 0;
  }

  /** Label i of the whole message; i < labelsLen. */
  label(i: u32): u16 {
    if (i >= this.labelsLen) unreachable();
    return load<u16>(this.labelsAt + 2 * i);
  }

  /** Finding i; i < findingsLen. */
  finding(i: u32): Finding {
    if (i >= this.findingsLen) unreachable();
    return changetype<Finding>(this.findingsAt + FINDING * i);
  }

  /** The payload, empty when it was not granted. */
  payload(): Bytes {
    return this.body;
  }

  /** Whether the payload is there. */
  get payloadPresent(): bool {
    return (this.flags & PAYLOAD_PRESENT) != 0;
  }
}

/** Gaps of the Shell sort. */
const GAPS = memory.data<u32>([1750, 701, 301, 132, 57, 23, 10, 4, 1]);

/** The verdict under construction. Edits grow from the front of the out region, replacements from its end. */
export class Verdict {
  private action: u8 = 0;
  private least: u8 = 0;
  private why: u16 = 0;
  private mistake: i32 = 0;
  private edits: u32 = 0;
  private pool: u32 = 0;
  private labels: u32 = 0;
  private labelsAt: usize = heap.alloc(2 * MAX_LABELS);
  private findings: u32 = 0;
  private reach: u32 = 0;

  start(r: Request): void {
    this.action = 1;
    this.least = 0;
    this.why = 0;
    this.mistake = 0;
    this.edits = this.pool = this.labels = 0;
    this.findings = r.findingsLen;
    this.reach = r.payloadPresent ? r.payloadLen : 0;
  }

  private fails(error: i32): void {
    if (this.mistake == 0) this.mistake = error;
  }

  /** The policy decides: how a verdict starts, and what it stays when nothing is added. It takes nothing back. */
  none(): void {}

  /** The message stays here, for a reason of the manifest (0 = none); the first call gives the reason. */
  block(reason: u16): void {
    if (this.action < 3) {
      this.action = 3;
      this.why = reason;
    }
  }

  /** The message waits for a person; block beats hold, and the first call gives the reason. */
  hold(reason: u16): void {
    if (this.action < 2) {
      this.action = 2;
      this.why = reason;
    }
  }

  /** Says why, also without an objection: a code of the manifest's reasons. */
  reason(code: u16): void {
    this.why = code;
  }

  /** The least grade of everything in the message; the highest call wins. */
  grade(grade: u8): void {
    if (grade < GENERAL || grade > CORE) this.fails(INTERNAL);
    else if (grade > this.least) this.least = grade;
  }

  /** Puts a category of the manifest on the message as a whole, once. */
  label(label: u16): void {
    for (let i: u32 = 0; i < this.labels; i++) {
      if (load<u16>(this.labelsAt + 2 * i) == label) return;
    }
    if (label == 0 || this.labels == MAX_LABELS) {
      this.fails(INTERNAL);
      return;
    }
    store<u16>(this.labelsAt + 2 * this.labels, label);
    this.labels++;
  }

  private room(more: u32): bool {
    return <u32>16 + EDIT * this.edits + this.pool + more <= outCap;
  }

  private edit(t: Target, op: u8, param: u32): bool {
    const a = <u32>t, b = <u32>(t >> 32);
    if (b ? !within(a, b, this.reach) : a >= this.findings) {
      this.fails(INTERNAL);
      return false;
    }
    if (this.edits == MAX_EDITS || !this.room(EDIT)) {
      this.fails(TOO_SMALL);
      return false;
    }
    const e = outAt + 16 + EDIT * this.edits;
    store<u8>(e, b ? 1 : 0);
    store<u8>(e, op, 1);
    store<u16>(e, 0, 2);
    store<u32>(e, a, 4);
    store<u32>(e, b, 8);
    store<u32>(e, param, 12);
    this.edits++;
    return true;
  }

  /** The edit of the operator's list with this id. */
  mask(t: Target, profile: u32): void {
    this.edit(t, 1, profile);
  }

  /** The edit of the operator's list with this id. */
  generalize(t: Target, profile: u32): void {
    this.edit(t, 2, profile);
  }

  /** The edit of the operator's list with this id. */
  tokenize(t: Target, domain: u32): void {
    this.edit(t, 3, domain);
  }

  /** The edit of the operator's list with this id. */
  encrypt(t: Target, slot: u32): void {
    this.edit(t, 4, slot);
  }

  /** Puts other bytes in place, at most 256; needs the grant replace. */
  replace(t: Target, bytes: usize, length: u32): void {
    if (length > MAX_REPLACEMENT) {
      this.fails(INTERNAL);
      return;
    }
    if (!this.edit(t, 5, this.pool)) return;
    if (!this.room(2 + length)) {
      this.edits--;
      this.fails(TOO_SMALL);
      return;
    }
    const end = outAt + outCap - this.pool; // back to front until finish turns it
    store<u8>(end - 1, <u8>length);
    store<u8>(end - 2, <u8>(length >> 8));
    for (let i: u32 = 0; i < length; i++) store<u8>(end - 3 - i, load<u8>(bytes + i));
    this.pool += 2 + length;
  }

  /** Takes the field out of the message. */
  remove(t: Target): void {
    this.edit(t, 6, 0);
  }

  /** Raises the grade of one finding; the policy then acts on it. */
  regrade(t: Target, grade: u8): void {
    if (grade < GENERAL || grade > CORE) this.fails(INTERNAL);
    else this.edit(t, 7, grade);
  }

  /** Makes the whole message an error of this plugin. */
  fail(): void {
    this.fails(INTERNAL);
  }

  /** Place of edit i in the order of targets: findings by index, then ranges by offset. */
  private key(i: u32): u64 {
    const e = outAt + 16 + EDIT * i;
    return ((<u64>load<u8>(e)) << 32) | load<u32>(e, 4);
  }

  private sort(): void {
    let sorted: u32 = 1;
    while (sorted < this.edits && this.key(sorted - 1) <= this.key(sorted)) sorted++;
    if (sorted >= this.edits) return; // a filter that walks the findings gives them in order
    const edits = outAt + 16;
    for (let g: u32 = 0; g < 9; g++) {
      const gap = load<u32>(GAPS + 4 * g);
      for (let i = gap; i < this.edits; i++) {
        const low = load<u64>(edits + EDIT * i), high = load<u64>(edits + EDIT * i, 8), key = this.key(i);
        let j = i;
        for (; j >= gap && this.key(j - gap) > key; j -= gap) memory.copy(edits + EDIT * j, edits + EDIT * (j - gap), EDIT);
        store<u64>(edits + EDIT * j, low);
        store<u64>(edits + EDIT * j, high, 8);
      }
    }
  }

  /** Turns the replacements front to back and puts them at to, padded with zeros. */
  private putPool(to: usize, padded: u32): void {
    const from = outAt + outCap - this.pool, n = this.pool;
    for (let i: u32 = 0; i < n / 2; i++) {
      const b = load<u8>(from + i);
      store<u8>(from + i, load<u8>(from + n - 1 - i));
      store<u8>(from + n - 1 - i, b);
    }
    memory.copy(to, from, n);
    memory.fill(to + n, 0, padded - n);
  }

  /** Sorts the edits, refuses overlaps, writes header, labels and replacements: the length, or an error. */
  finish(): i32 {
    const labelsAt: u32 = 16 + EDIT * this.edits, poolAt: u32 = labelsAt + ((2 * this.labels + 7) & ~7);
    const padded: u32 = (this.pool + 7) & ~7, length = poolAt + padded;
    if (this.mistake) return this.mistake;
    if (length > outCap) return TOO_SMALL;
    this.sort();
    for (let i: u32 = 1; i < this.edits; i++) {
      const e = outAt + 16 + EDIT * (i - 1), long: u64 = load<u8>(e) ? load<u32>(e, 8) : 1;
      if (load<u8>(e) == load<u8>(e, 16) && this.key(i) < this.key(i - 1) + long) return INTERNAL;
    }
    this.putPool(outAt + poolAt, padded);
    memory.fill(outAt + labelsAt, 0, poolAt - labelsAt);
    memory.copy(outAt + labelsAt, this.labelsAt, 2 * this.labels);
    store<u32>(outAt, length);
    store<u16>(outAt, 1, 4);
    store<u8>(outAt, this.action, 6);
    store<u8>(outAt, this.least, 7);
    store<u16>(outAt, <u16>this.edits, 8);
    store<u16>(outAt, <u16>this.labels, 10);
    store<u16>(outAt, this.why, 12);
    store<u16>(outAt, 0, 14);
    return length;
  }
}

const request = new Request();
const verdict = new Verdict();
let filter: ((r: Request, v: Verdict) => void) | null = null;
let configure: ((config: Bytes) => bool) | null = null;
const config = new Bytes();

/** Registers the filter; call it at the top of the plugin. */
export function main(f: (r: Request, v: Verdict) => void): void {
  filter = f;
}

/** Registers what reads the configuration, JSON, for a plugin that also exports sluice_configure. True accepts; see refuse. */
export function configuration(f: (config: Bytes) => bool): void {
  configure = f;
}

/** Leaves an ASCII text that says why a configuration is refused: return refuse("…"). */
export function refuse(text: string): bool {
  const size = min<u32>(min<u32>(text.length, MAX_REFUSAL), outCap - 4);
  for (let n: u32 = 0; n < size; n++) store<u8>(outAt + 4 + n, load<u8>(changetype<usize>(text) + 2 * n));
  store<u32>(outAt, size);
  return false;
}

export function sluice_abi_v1(): void {}

export function sluice_arena(inBytes: u32, outBytes: u32): u64 {
  if (inBytes > MAX_REGION || outBytes > MAX_REGION || outBytes < 16) return 0;
  inAt = heap.alloc(inBytes);
  outAt = heap.alloc(outBytes);
  inCap = inBytes;
  outCap = outBytes;
  return ((<u64>inAt) << 32) | <u64>outAt;
}

export function sluice_configure(len: u32): i32 {
  if (len > inCap || configure === null) return 1;
  config.set(inAt, len);
  store<u32>(outAt, 0);
  return configure(config) ? 0 : 1;
}

export function sluice_filter(len: u32): i32 {
  const code = request.parse(len);
  if (code) return code;
  verdict.start(request);
  filter!(request, verdict);
  return verdict.finish();
}
