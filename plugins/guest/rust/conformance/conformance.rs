//! conformance: does what the topic of a message says, for the vectors of plugins/conformance. The words are described there.
#![no_std]

use sluice::{Request, Target, Verdict};

struct Words<'a> {
    s: &'a [u8],
    bad: bool,
}

impl<'a> Words<'a> {
    fn word(&mut self, text: &str) -> bool {
        match self.s.strip_prefix(text.as_bytes()) {
            Some(rest) => {
                self.s = rest;
                true
            }
            None => false,
        }
    }

    fn number(&mut self) -> u32 {
        let mut n = 0u32;
        let from = self.s.len();
        while let [c @ b'0'..=b'9', rest @ ..] = self.s {
            n = n.wrapping_mul(10).wrapping_add((c - b'0') as u32);
            self.s = rest;
        }
        self.bad |= self.s.len() == from;
        n
    }

    /// " N"
    fn argument(&mut self) -> u32 {
        self.bad |= !self.word(" ");
        self.number()
    }

    /// Nothing is repeated more often: whoever damages a number gets an answer, no endless loop.
    fn bounded(&mut self, n: u32) {
        self.bad |= n > 8192;
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Mask,
    Generalize,
    Tokenize,
    Encrypt,
    Replace,
    Remove,
    Regrade,
}

fn edit(v: &mut Verdict, t: Target, op: Op, a: u32, b: u32) {
    match op {
        Op::Mask => v.mask(t, a),
        Op::Generalize => v.generalize(t, a),
        Op::Tokenize => v.tokenize(t, a),
        Op::Encrypt => v.encrypt(t, a),
        Op::Replace => v.replace(t, &[b as u8; 512][..a.min(512) as usize]),
        Op::Remove => v.remove(t),
        Op::Regrade => v.regrade(t, a as u8),
    }
}

/// " N", " N..M", " OFF+LEN" or " OFF+LENxCOUNT", and what the operation takes
fn edits(w: &mut Words, v: &mut Verdict, op: Op) {
    let mut from = w.argument();
    let (mut to, mut range, mut count) = (from, None, 1);
    if w.word("..") {
        to = w.number();
    } else if w.word("+") {
        range = Some(w.number());
        if w.word("x") {
            count = w.number();
        }
    }
    let a = if op != Op::Remove { w.argument() } else { 0 };
    let b = if op == Op::Replace { w.argument() } else { 0 };
    w.bounded(if range.is_some() { count } else { from.max(to) - from.min(to) });
    if w.bad {
        return;
    }
    if let Some(length) = range {
        for i in 0..count {
            edit(v, Target::range(from.wrapping_add(i.wrapping_mul(length)), length), op, a, b);
        }
        return;
    }
    loop {
        edit(v, Target::finding(from), op, a, b);
        if from == to {
            return;
        }
        from = if from < to { from + 1 } else { from - 1 };
    }
}

struct Sum(u32);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ *b as u32).wrapping_mul(16777619);
        }
    }

    fn add32(&mut self, n: u32) {
        self.add(&n.to_le_bytes());
    }

    fn add_bytes(&mut self, bytes: &[u8]) {
        self.add32(bytes.len() as u32);
        self.add(bytes);
    }
}

/// Everything that the readers give, as one number: reason and label of the verdict.
fn sum_all(r: &Request, v: &mut Verdict) {
    let mut h = Sum(2166136261);
    h.add(&r.msg_id.to_le_bytes());
    h.add(&r.time_ms.to_le_bytes());
    h.add(&[r.protocol, r.encoding, r.grade, r.flags]);
    h.add32(r.payload_len);
    h.add_bytes(r.topic);
    h.add_bytes(r.source);
    h.add32(r.labels_len());
    for l in r.labels() {
        h.add(&l.to_le_bytes());
    }
    h.add32(r.findings_len());
    for f in r.findings() {
        h.add32(f.off);
        h.add32(f.len);
        h.add(&f.label.to_le_bytes());
        h.add(&[f.kind, f.confidence, f.grade, f.flags]);
        h.add_bytes(f.key);
        h.add_bytes(f.value);
        if let Some(at) = f.position() {
            h.add(&at.lat.to_le_bytes());
            h.add(&at.lon.to_le_bytes());
            h.add32(at.datum);
        }
    }
    h.add_bytes(r.payload());
    v.reason(h.0 as u16);
    v.label((1 + (h.0 >> 16) % 65535) as u16);
}

fn command(w: &mut Words, r: &Request, v: &mut Verdict) {
    if w.word("none") {
        v.none();
    } else if w.word("sum") {
        sum_all(r, v);
    } else if w.word("block") {
        v.block(w.argument() as u16);
    } else if w.word("hold") {
        v.hold(w.argument() as u16);
    } else if w.word("reason") {
        v.reason(w.argument() as u16);
    } else if w.word("grade") {
        v.grade(w.argument() as u8);
    } else if w.word("label") {
        let from = w.argument();
        let to = if w.word("..") { w.number() } else { from };
        w.bounded(to.wrapping_sub(from));
        if !w.bad {
            for l in from..=to {
                v.label(l as u16);
            }
        }
    } else if w.word("mask") {
        edits(w, v, Op::Mask);
    } else if w.word("generalize") {
        edits(w, v, Op::Generalize);
    } else if w.word("tokenize") {
        edits(w, v, Op::Tokenize);
    } else if w.word("encrypt") {
        edits(w, v, Op::Encrypt);
    } else if w.word("replace") {
        edits(w, v, Op::Replace);
    } else if w.word("remove") {
        edits(w, v, Op::Remove);
    } else if w.word("regrade") {
        edits(w, v, Op::Regrade);
    } else if w.word("fail") {
        v.fail();
    } else if w.word("trap") {
        panic!();
    } else {
        w.bad = true;
    }
}

fn filter(r: &Request, v: &mut Verdict) {
    let mut w = Words { s: r.topic, bad: false };
    while !w.s.is_empty() && w.s[0] != b'#' && !w.bad {
        command(&mut w, r, v);
        if !w.s.is_empty() && w.s[0] != b'#' && !w.word(";") {
            w.bad = true;
        }
    }
    if w.bad {
        v.fail();
    }
}

/// {"refuse": …} is refused, everything else accepted.
fn configure(json: &[u8]) -> Result<(), &'static str> {
    if json.windows(6).any(|w| w == b"refuse") {
        return Err("refused, as told");
    }
    Ok(())
}

sluice::filter!(filter);
sluice::configure!(configure);
