//! The author's side of the Sluice filter-plugin ABI, version 1, for Rust without its standard library.
//!
//! ```ignore
//! #![no_std]
//! use sluice::{Request, Verdict, IMPORTANT};
//!
//! fn filter(r: &Request, v: &mut Verdict) {
//!     for f in r.findings() {
//!         if f.label == 1 {
//!             v.regrade(f.target(), IMPORTANT);
//!         }
//!     }
//! }
//! sluice::filter!(filter);
//! ```
//!
//! What holds. The filter is called once per message, by one thread at a time, and keeps nothing from one message to the
//! next: the host may drop the instance between any two. A record that does not keep the ABI's rules never reaches it: every
//! offset and length of the request is checked first (-1). The verdict starts as "no objection"; a filter can only add to
//! it. Edits may be given in any order, one per finding. A mistake of the filter (two edits of one finding, a finding that is
//! not there, too many edits) makes the whole verdict an error, the first mistake decides which, and the message then takes
//! the operator's on_error path; nothing partly written counts. A panic is a trap.
#![no_std]

use core::convert::TryInto;
use core::slice;

pub const GENERAL: u8 = 1;
pub const IMPORTANT: u8 = 2;
pub const CORE: u8 = 3;

pub const MQTT: u8 = 1;
pub const OPCUA: u8 = 2;
pub const GBT32960: u8 = 3;
pub const JTT808: u8 = 4;

pub const JSON: u8 = 1;
pub const CBOR: u8 = 2;
pub const PROTOBUF: u8 = 3;
pub const BINARY_FRAME: u8 = 4;
pub const TEXT: u8 = 5;

pub const STRING: u8 = 1;
pub const NUMBER: u8 = 2;
pub const BOOL: u8 = 3;
pub const BYTES: u8 = 4;
pub const SUBTREE: u8 = 5;

/// Flags of a request.
pub const PAYLOAD_PRESENT: u8 = 1;
pub const PAYLOAD_CUT: u8 = 2;
pub const REPLAY: u8 = 4;
pub const SHADOW: u8 = 8;

/// Flags of a finding.
pub const PERSONAL: u8 = 1;
pub const SENSITIVE: u8 = 2;

pub const UNKNOWN_DATUM: u32 = 0;
pub const WGS84: u32 = 1;
pub const GCJ02: u32 = 2;
pub const BD09: u32 = 3;

const MALFORMED: i32 = -1;
const VERSION: i32 = -2;
const TOO_SMALL: i32 = -3;
const INTERNAL: i32 = -4;

const HEADER: usize = 64;
const FINDING: usize = 32;
const EDIT: usize = 16;
const MAX_EDITS: usize = 4096;
const MAX_LABELS: usize = 64;
const MAX_REPLACEMENT: usize = 256;

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(b[at..at + 2].try_into().unwrap())
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}

/// The n elements of the given size that begin at off, if they lie within b.
fn part(b: &[u8], off: u32, n: usize, size: usize) -> Option<&[u8]> {
    let len = n.checked_mul(size)?;
    b.get(off as usize..(off as usize).checked_add(len)?)
}

/// One message as the host shows it.
pub struct Request<'a> {
    pub msg_id: u64,
    /// The only clock there is.
    pub time_ms: i64,
    pub protocol: u8,
    pub encoding: u8,
    /// 0: ungraded, treat as core.
    pub grade: u8,
    pub flags: u8,
    /// True length, also when the payload is absent.
    pub payload_len: u32,
    /// Topic, node id or frame name.
    pub topic: &'a [u8],
    /// The device, as a pseudonym unless read.source is granted.
    pub source: &'a [u8],
    record: &'a [u8],
    labels: &'a [u8],
    findings: &'a [u8],
    payload: &'a [u8],
    payload_present: bool,
}

/// One place of the message that a category matched.
#[derive(Clone, Copy)]
pub struct Finding<'a> {
    /// Number of the finding in the message.
    pub index: u32,
    pub off: u32,
    pub len: u32,
    /// 1 + index in the manifest's labels, 0 = not listed.
    pub label: u16,
    pub kind: u8,
    pub confidence: u8,
    pub grade: u8,
    pub flags: u8,
    /// Field name; empty when there is none or it is itself a value that was not granted.
    pub key: &'a [u8],
    /// Empty unless read.value of the category is granted.
    pub value: &'a [u8],
}

/// A place on earth.
#[derive(Clone, Copy)]
pub struct Position {
    pub lat: f64,
    pub lon: f64,
    pub datum: u32,
}

/// What an edit is about.
#[derive(Clone, Copy)]
pub struct Target {
    kind: u8,
    a: u32,
    b: u32,
}

impl Target {
    /// A finding, by its number in the message.
    pub fn finding(index: u32) -> Target {
        Target { kind: 0, a: index, b: 0 }
    }

    /// A range of the payload; needs read.payload.
    pub fn range(off: u32, len: u32) -> Target {
        Target { kind: 1, a: off, b: len }
    }
}

impl<'a> Request<'a> {
    /// Reads and checks a record.
    fn parse(b: &'a [u8]) -> Result<Request<'a>, i32> {
        if b.len() < 8 || u32_at(b, 0) as usize != b.len() {
            return Err(MALFORMED);
        }
        if u16_at(b, 4) != 1 {
            return Err(VERSION);
        }
        let header = u16_at(b, 6) as usize;
        if header < HEADER || header > b.len() {
            return Err(MALFORMED);
        }
        let (payload_len, payload_off) = (u32_at(b, 28), u32_at(b, 32));
        let present = payload_off != 0;
        if b[26] > CORE || u32_at(b, 60) != 0 || (b[27] & PAYLOAD_PRESENT != 0) != present {
            return Err(MALFORMED);
        }
        let take = |off, n: usize, size| part(b, off, n, size).ok_or(MALFORMED);
        let request = Request {
            msg_id: u64_at(b, 8),
            time_ms: u64_at(b, 16) as i64,
            protocol: b[24],
            encoding: b[25],
            grade: b[26],
            flags: b[27],
            payload_len,
            topic: take(u32_at(b, 48), u16_at(b, 52) as usize, 1)?,
            source: take(u32_at(b, 56), u16_at(b, 54) as usize, 1)?,
            record: b,
            labels: take(u32_at(b, 44), u16_at(b, 42) as usize, 2)?,
            findings: take(u32_at(b, 36), u16_at(b, 40) as usize, FINDING)?,
            payload: if present { take(payload_off, payload_len as usize, 1)? } else { &[] },
            payload_present: present,
        };
        for f in request.findings.chunks_exact(FINDING) {
            if u32_at(f, 0) as u64 + u32_at(f, 4) as u64 > payload_len as u64 {
                return Err(MALFORMED);
            }
            take(u32_at(f, 16), u16_at(f, 14) as usize, 1)?;
            take(u32_at(f, 20), u32_at(f, 24) as usize, 1)?;
        }
        Ok(request)
    }

    /// Labels of the whole message.
    pub fn labels(&self) -> impl Iterator<Item = u16> + 'a {
        self.labels.chunks_exact(2).map(|l| u16_at(l, 0))
    }

    /// Findings in their order.
    pub fn findings(&self) -> impl Iterator<Item = Finding<'a>> + 'a {
        let record = self.record;
        self.findings.chunks_exact(FINDING).enumerate().map(move |(i, f)| {
            let value = u32_at(f, 20);
            let bytes = |off, len| part(record, off, len as usize, 1).unwrap_or(&[]);
            Finding {
                index: i as u32,
                off: u32_at(f, 0),
                len: u32_at(f, 4),
                label: u16_at(f, 8),
                kind: f[10],
                confidence: f[11],
                grade: f[12],
                flags: f[13],
                key: bytes(u32_at(f, 16), u16_at(f, 14) as u32),
                value: if value == 0 { &[] } else { bytes(value, u32_at(f, 24)) },
            }
        })
    }

    /// Number of findings.
    pub fn findings_len(&self) -> u32 {
        (self.findings.len() / FINDING) as u32
    }

    /// Number of labels.
    pub fn labels_len(&self) -> u32 {
        (self.labels.len() / 2) as u32
    }

    /// The payload, empty when it was not granted.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

impl<'a> Finding<'a> {
    /// This finding as the target of an edit.
    pub fn target(&self) -> Target {
        Target::finding(self.index)
    }

    /// The position that the finding is half of: none when it was not granted or is no place on earth.
    pub fn position(&self) -> Option<Position> {
        let v = self.value;
        if v.len() != 20 {
            return None;
        }
        let p = Position { lat: f64::from_bits(u64_at(v, 0)), lon: f64::from_bits(u64_at(v, 8)), datum: u32_at(v, 16) };
        if p.datum <= BD09 && p.lat >= -90.0 && p.lat <= 90.0 && p.lon >= -180.0 && p.lon <= 180.0 {
            Some(p)
        } else {
            None
        }
    }
}

/// The verdict under construction. Edits grow from the front of the out region, replacements from its end.
pub struct Verdict<'a> {
    out: &'a mut [u8],
    action: u8,
    grade: u8,
    reason: u16,
    mistake: i32,
    edits: usize,
    pool: usize,
    labels: usize,
    label: [u16; MAX_LABELS],
    findings: u32,
    payload: Option<u32>,
}

fn pad(n: usize) -> usize {
    (n + 7) & !7
}

impl<'a> Verdict<'a> {
    fn new(r: &Request, out: &'a mut [u8]) -> Verdict<'a> {
        Verdict {
            out,
            action: 1,
            grade: 0,
            reason: 0,
            mistake: 0,
            edits: 0,
            pool: 0,
            labels: 0,
            label: [0; MAX_LABELS],
            findings: r.findings_len(),
            payload: if r.payload_present { Some(r.payload_len) } else { None },
        }
    }

    fn fails(&mut self, error: i32) {
        if self.mistake == 0 {
            self.mistake = error;
        }
    }

    /// The policy decides: how a verdict starts, and what it stays when nothing is added. It takes nothing back.
    pub fn none(&mut self) {}

    /// The message stays here, for a reason of the manifest (0 = none); the first call gives the reason.
    pub fn block(&mut self, reason: u16) {
        if self.action < 3 {
            self.action = 3;
            self.reason = reason;
        }
    }

    /// The message waits for a person; block beats hold, and the first call gives the reason.
    pub fn hold(&mut self, reason: u16) {
        if self.action < 2 {
            self.action = 2;
            self.reason = reason;
        }
    }

    /// Says why, also without an objection: a code of the manifest's reasons.
    pub fn reason(&mut self, reason: u16) {
        self.reason = reason;
    }

    /// The least grade of everything in the message; the highest call wins.
    pub fn grade(&mut self, grade: u8) {
        if grade < GENERAL || grade > CORE {
            self.fails(INTERNAL);
        } else if grade > self.grade {
            self.grade = grade;
        }
    }

    /// Puts a category of the manifest on the message as a whole, once.
    pub fn label(&mut self, label: u16) {
        if self.label[..self.labels].contains(&label) {
            return;
        }
        if label == 0 || self.labels == MAX_LABELS {
            return self.fails(INTERNAL);
        }
        self.label[self.labels] = label;
        self.labels += 1;
    }

    fn room(&self, more: usize) -> bool {
        16 + EDIT * self.edits + self.pool + more <= self.out.len()
    }

    fn edit(&mut self, t: Target, op: u8, param: u32) -> bool {
        let there = match (t.kind, self.payload) {
            (0, _) => t.a < self.findings,
            (_, Some(len)) => t.b > 0 && t.a as u64 + t.b as u64 <= len as u64,
            (_, None) => false,
        };
        if !there {
            self.fails(INTERNAL);
            return false;
        }
        if self.edits == MAX_EDITS || !self.room(EDIT) {
            self.fails(TOO_SMALL);
            return false;
        }
        let at = 16 + EDIT * self.edits;
        let e = &mut self.out[at..at + EDIT];
        e[0] = t.kind;
        e[1] = op;
        e[2..4].copy_from_slice(&[0, 0]);
        e[4..8].copy_from_slice(&t.a.to_le_bytes());
        e[8..12].copy_from_slice(&t.b.to_le_bytes());
        e[12..16].copy_from_slice(&param.to_le_bytes());
        self.edits += 1;
        true
    }

    /// The edit of the operator's list with this id.
    pub fn mask(&mut self, t: Target, profile: u32) {
        self.edit(t, 1, profile);
    }

    /// The edit of the operator's list with this id.
    pub fn generalize(&mut self, t: Target, profile: u32) {
        self.edit(t, 2, profile);
    }

    /// The edit of the operator's list with this id.
    pub fn tokenize(&mut self, t: Target, domain: u32) {
        self.edit(t, 3, domain);
    }

    /// The edit of the operator's list with this id.
    pub fn encrypt(&mut self, t: Target, slot: u32) {
        self.edit(t, 4, slot);
    }

    /// Puts other bytes in place, at most 256; needs the grant replace.
    pub fn replace(&mut self, t: Target, bytes: &[u8]) {
        if bytes.len() > MAX_REPLACEMENT {
            return self.fails(INTERNAL);
        }
        if !self.edit(t, 5, self.pool as u32) {
            return;
        }
        if !self.room(2 + bytes.len()) {
            self.edits -= 1;
            return self.fails(TOO_SMALL);
        }
        let end = self.out.len() - self.pool; // back to front until finish turns it
        self.out[end - 1] = bytes.len() as u8;
        self.out[end - 2] = (bytes.len() >> 8) as u8;
        for (i, b) in bytes.iter().enumerate() {
            self.out[end - 3 - i] = *b;
        }
        self.pool += 2 + bytes.len();
    }

    /// Takes the field out of the message.
    pub fn remove(&mut self, t: Target) {
        self.edit(t, 6, 0);
    }

    /// Raises the grade of one finding; the policy then acts on it.
    pub fn regrade(&mut self, t: Target, grade: u8) {
        if grade < GENERAL || grade > CORE {
            self.fails(INTERNAL);
        } else {
            self.edit(t, 7, grade as u32);
        }
    }

    /// Makes the whole message an error of this plugin.
    pub fn fail(&mut self) {
        self.fails(INTERNAL);
    }

    /// Order of the edits: findings by index, then ranges by offset.
    fn key(&self, i: usize) -> u64 {
        let at = 16 + EDIT * i;
        (self.out[at] as u64) << 32 | u32_at(self.out, at + 4) as u64
    }

    fn sort(&mut self) {
        if (1..self.edits).all(|i| self.key(i - 1) <= self.key(i)) {
            return; // a filter that walks the findings gives them in order
        }
        for gap in [1750, 701, 301, 132, 57, 23, 10, 4, 1] {
            for i in gap..self.edits {
                let (mut j, key) = (i, self.key(i));
                let mut e = [0; EDIT];
                e.copy_from_slice(&self.out[16 + EDIT * i..32 + EDIT * i]);
                while j >= gap && self.key(j - gap) > key {
                    let from = 16 + EDIT * (j - gap);
                    self.out.copy_within(from..from + EDIT, 16 + EDIT * j);
                    j -= gap;
                }
                self.out[16 + EDIT * j..32 + EDIT * j].copy_from_slice(&e);
            }
        }
    }

    /// Sorts the edits, refuses overlaps, writes header, labels and replacements.
    fn finish(&mut self) -> i32 {
        let labels_at = 16 + EDIT * self.edits;
        let pool_at = labels_at + pad(2 * self.labels);
        let len = pool_at + pad(self.pool);
        if self.mistake != 0 {
            return self.mistake;
        }
        if len > self.out.len() {
            return TOO_SMALL;
        }
        self.sort();
        for i in 1..self.edits {
            let at = 16 + EDIT * (i - 1);
            let long = if self.out[at] == 0 { 1 } else { u32_at(self.out, at + 8) as u64 };
            if self.out[at] == self.out[at + EDIT] && self.key(i) < self.key(i - 1) + long {
                return INTERNAL;
            }
        }
        let from = self.out.len() - self.pool;
        self.out[from..].reverse();
        self.out.copy_within(from.., pool_at);
        self.out[pool_at + self.pool..len].fill(0);
        self.out[labels_at..pool_at].fill(0);
        for i in 0..self.labels {
            self.out[labels_at + 2 * i..labels_at + 2 * i + 2].copy_from_slice(&self.label[i].to_le_bytes());
        }
        let head = &mut self.out[..16];
        head[0..4].copy_from_slice(&(len as u32).to_le_bytes());
        head[4..8].copy_from_slice(&[1, 0, self.action, self.grade]);
        head[8..10].copy_from_slice(&(self.edits as u16).to_le_bytes());
        head[10..12].copy_from_slice(&(self.labels as u16).to_le_bytes());
        head[12..14].copy_from_slice(&self.reason.to_le_bytes());
        head[14..16].copy_from_slice(&[0, 0]);
        len as i32
    }
}

/// What the exported functions are made of; not for plugins.
#[doc(hidden)]
pub mod abi {
    use super::*;

    /// Where the regions are and how long.
    static mut REGIONS: [(usize, usize); 2] = [(0, 0); 2];

    const MAX_REGION: u32 = 1 << 20;

    #[cfg(target_arch = "wasm32")]
    pub fn arena(in_cap: u32, out_cap: u32) -> u64 {
        if in_cap > MAX_REGION || out_cap > MAX_REGION || out_cap < 16 {
            return 0;
        }
        let in_len = pad(in_cap as usize);
        let pages = (in_len + pad(out_cap as usize) + 65535) / 65536;
        let first = core::arch::wasm32::memory_grow(0, pages);
        if first == usize::MAX {
            return 0;
        }
        let at = first * 65536;
        unsafe { REGIONS = [(at, in_cap as usize), (at + in_len, out_cap as usize)] };
        (at as u64) << 32 | (at + in_len) as u64
    }

    /// The host's memory for one call: nobody else uses it until the call returns.
    unsafe fn input<'a>(len: u32) -> Option<&'a [u8]> {
        let (at, cap) = REGIONS[0];
        if at == 0 || len as usize > cap {
            return None;
        }
        Some(slice::from_raw_parts(at as *const u8, len as usize))
    }

    unsafe fn output<'a>() -> &'a mut [u8] {
        let (at, cap) = REGIONS[1];
        slice::from_raw_parts_mut(at as *mut u8, cap)
    }

    pub fn filter(len: u32, f: fn(&Request, &mut Verdict)) -> i32 {
        let record = match unsafe { input(len) } {
            Some(record) => record,
            None => return MALFORMED,
        };
        match Request::parse(record) {
            Ok(r) => {
                let mut v = Verdict::new(&r, unsafe { output() });
                f(&r, &mut v);
                v.finish()
            }
            Err(code) => code,
        }
    }

    pub fn configure(len: u32, f: fn(&[u8]) -> Result<(), &'static str>) -> i32 {
        let config = match unsafe { input(len) } {
            Some(config) => config,
            None => return 1,
        };
        match f(config) {
            Ok(()) => 0,
            Err(text) => {
                let out = unsafe { output() };
                let n = text.len().min(512).min(out.len() - 4);
                out[..4].copy_from_slice(&(n as u32).to_le_bytes());
                out[4..4 + n].copy_from_slice(&text.as_bytes()[..n]);
                1
            }
        }
    }
}

#[cfg(all(target_arch = "wasm32", not(test)))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

/// Entry of a plugin: `fn(&Request, &mut Verdict)`.
#[macro_export]
macro_rules! filter {
    ($f:expr) => {
        #[no_mangle]
        pub extern "C" fn sluice_abi_v1() {}
        #[no_mangle]
        pub extern "C" fn sluice_arena(in_cap: u32, out_cap: u32) -> u64 {
            $crate::abi::arena(in_cap, out_cap)
        }
        #[no_mangle]
        pub extern "C" fn sluice_filter(len: u32) -> i32 {
            $crate::abi::filter(len, $f)
        }
    };
}

/// Optional: `fn(&[u8]) -> Result<(), &'static str>`; an error refuses the configuration, and the load fails.
#[macro_export]
macro_rules! configure {
    ($f:expr) => {
        #[no_mangle]
        pub extern "C" fn sluice_configure(len: u32) -> i32 {
            $crate::abi::configure(len, $f)
        }
    };
}
