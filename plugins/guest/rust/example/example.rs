//! example: shows most of what a plugin can do; the same plugin stands in every language of the kit.
//!
//! A message that lies in a sensitive area is blocked. Otherwise location fields are generalized, VINs tokenized, contacts
//! masked, each as edit 1, 2, 3 of the operator's list says. A message with more location fields than "hold_above" is held
//! for a person: it is a track, no position. Configuration, JSON: {"hold_above": 16}, 1 to 9999; 16 when absent.
#![no_std]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use sluice::{Request, Verdict};

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

static HOLD_ABOVE: AtomicU32 = AtomicU32::new(16);

fn filter(r: &Request, v: &mut Verdict) {
    let mut locations = 0;
    if r.labels().any(|l| l == SENSITIVE_AREA) {
        v.block(IN_SENSITIVE_AREA);
    }
    for f in r.findings() {
        match f.label {
            POINT | TRACK => {
                v.generalize(f.target(), COARSE);
                locations += 1;
            }
            VIN => v.tokenize(f.target(), FLEET),
            CONTACT => v.mask(f.target(), HIDDEN),
            _ => {}
        }
    }
    if locations > HOLD_ABOVE.load(Relaxed) {
        v.hold(LONG_TRACK);
    }
}

fn blank(mut s: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = s {
        s = rest;
    }
    s
}

/// What follows text and the blanks after it, when s begins with it.
fn take<'a>(s: &'a [u8], text: &str) -> Option<&'a [u8]> {
    s.strip_prefix(text.as_bytes()).map(blank)
}

fn configure(json: &[u8]) -> Result<(), &'static str> {
    let mut n = 16;
    let mut s = take(blank(json), "{").ok_or("want an object")?;
    if let Some(rest) = take(s, "\"hold_above\"") {
        s = take(rest, ":").ok_or("malformed JSON")?;
        let digits = s.iter().take(5).take_while(|c| c.is_ascii_digit()).count();
        n = s[..digits].iter().fold(0, |n, c| 10 * n + (c - b'0') as u32);
        if digits == 0 || s[0] == b'0' || n > 9999 {
            return Err("hold_above is no number from 1 to 9999");
        }
        s = blank(&s[digits..]);
    }
    match take(s, "}") {
        Some([]) => {
            HOLD_ABOVE.store(n, Relaxed);
            Ok(())
        }
        _ => Err("want {\"hold_above\": NUMBER} and nothing else"),
    }
}

sluice::filter!(filter);
sluice::configure!(configure);
