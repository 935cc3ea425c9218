//! NAME: VINs leave as tokens, positions with two decimals; a message with many positions waits for a person.
#![no_std]

use sluice::{Request, Verdict};

// labels of manifest.json, from 1
const VIN: u16 = 1;
const POINT: u16 = 2;
const TRACK: u16 = 3;

// reasons of manifest.json
const MANY_POSITIONS: u16 = 1;

// numbers of the operator's edits, see plugin.yaml
const TOKEN_OF_FLEET: u32 = 1;
const COARSE: u32 = 2;

/// Positions that one message may have.
const MOST: u32 = 2;

fn filter(r: &Request, v: &mut Verdict) {
    let mut fields = 0; // a position is two: latitude and longitude
    for f in r.findings() {
        match f.label {
            VIN => v.tokenize(f.target(), TOKEN_OF_FLEET),
            POINT | TRACK => {
                v.generalize(f.target(), COARSE);
                fields += 1;
            }
            _ => {}
        }
    }
    if fields > 2 * MOST {
        v.hold(MANY_POSITIONS);
    }
}

sluice::filter!(filter);
