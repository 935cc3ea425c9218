package signed_test

import (
	"fmt"
	"time"

	"github.com/sluice-edge/sluice/crypto/signed"
)

// The worked example of the package doc: a key from a seed of 32 bytes 0x01, a root of 32 bytes 0x02.
func Example() {
	var seed, root [32]byte
	for i := range seed {
		seed[i], root[i] = 1, 2
	}
	signer, err := signed.NewSigner("vgw-0001", seed)
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := signer.SignCheckpoint(signed.Checkpoint{Size: 4711, Root: root, At: time.Date(2026, 11, 22, 6, 14, 10, 0, time.UTC)})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(signer.VerifierKey(), "\n\n", string(text))
	// Output:
	// vgw-0001+ece67bba+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c
	//
	// vgw-0001
	// 4711
	// AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
	// at 2026-11-22T06:14:10Z
	//
	// — vgw-0001 7OZ7ulU4HQ8LxP35ZbCVj5pg7D9skWkzwV72XDsa7pTWOam8EF7tBD3g5yeQ93Vv5PpGC5Y/CBjH4ei2FmappZobogk=
}
