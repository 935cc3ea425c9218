// NAME: VINs leave as tokens, positions with two decimals; a message with many positions waits for a person.
package main

import sluice "github.com/sluice-edge/sluice/plugins/guest/go" // in the folder sluice

// Labels of manifest.json, from 1.
const (
	vin   = 1
	point = 2
	track = 3
)

// Reasons of manifest.json.
const manyPositions = 1

// Numbers of the operator's edits, see plugin.yaml.
const (
	tokenOfFleet = 1
	coarse       = 2
)

// most is how many positions one message may have.
const most = 2

func init() { sluice.Main(filter) }

func main() {}

func filter(r *sluice.Request, v *sluice.Verdict) {
	fields := 0 // a position is two: latitude and longitude
	for f := range r.Findings() {
		switch f.Label {
		case vin:
			v.Tokenize(f.Target(), tokenOfFleet)
		case point, track:
			v.Generalize(f.Target(), coarse)
			fields++
		}
	}
	if fields > 2*most {
		v.Hold(manyPositions)
	}
}
