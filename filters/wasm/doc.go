// Package wasm runs filter plugins: WebAssembly modules that look at what was found in a message and say how it should be
// treated. A plugin decides, the host acts: keys, operators and the bytes of a message stay on this side.
//
// # What a plugin may rely on
//
// It is called once per message, by one goroutine at a time, in no particular order. It sees one record and returns another.
// It has no clock but the record's, nothing to call, and no state that outlives a call: the host drops an instance when it likes.
//
// # What the gateway may rely on
//
// A plugin can only tighten. A failure of any kind is an error from Filter, never an opinion: the message takes the
// operator's on_error path, block or hold. Nothing that a plugin returns is used before all of it was checked. After a
// trap or a verdict that breaks a rule the instance is dropped (a strike, see Plugin.Strikes and Env.OnStrike) and a new one is
// made for the next message. A call ends when its fuel is used up, whatever the module does (package guard); memory is bounded by
// its limit, and set aside once. In steady state a call allocates nothing on the host's side
// (one small object where the runtime has no compiler and interprets: everywhere but amd64 and arm64).
//
// # Loading
//
// Bytes become a module in verify (who vouches for it first, then its structure, then its manifest), a module becomes a pool of
// instances in newPool, and a Plugin is a pool with its configuration. No step looks behind the one before it, and none is skipped.
// What fails is a *LoadError with the code of the step:
//
//  1. Either the SHA-256 of the file is one of Env.Pinned, or the caller has verified a signature over the same bytes and says whose
//     (Env.Signer). Nothing else is read before.
//  2. Package guard decodes the module, refuses what the ABI does not have and what a compiler would take too long for, and writes it
//     anew with counters of fuel and call depth. There is exactly one custom section sluice.manifest; none reaches the compiler.
//  3. The manifest is JSON without unknown or repeated members. Its grants are wishes: in effect is what the operator also
//     gives and the signer may have. Limits over the host's are refused: 160 pages of memory, 50 M fuel, depth 1,000, regions of
//     1 MiB; absent ones are 16 pages (160 with wasi-stub), 5 M fuel for a message, 50 M for each call of a start, depth 256 (1,000),
//     64 KiB. Profile bare imports nothing, wasi-stub the functions below; sluice_v1.log needs that its grant is asked for.
//  4. Exports: memory, sluice_abi_v1 ()→(), sluice_arena (i32,i32)→i64, sluice_filter (i32)→i32; optional _initialize ()→() and
//     sluice_configure (i32)→i32. sluice_state_export and sluice_state_import are reserved.
//  5. The module is compiled in a process of its own (Compiler, CompileChild) with a limit of address space and a deadline,
//     which leaves the code in a private folder; this process reads it from there. Only where no folder takes it, it compiles again what the other could.
//  6. _initialize is called, then sluice_arena(in_bytes, out_bytes), which returns in_ptr<<32 | out_ptr: two regions, aligned to 8,
//     inside memory, apart from each other; then sluice_configure with the configuration as JSON, {} when the operator gave none. Anything
//     but 0 refuses the load; the out region then holds u32 length and text.
//  7. A manifest with vectors has a self-test file, NAME.vectors beside NAME.wasm, with this SHA-256, in the format of
//     plugins/conformance; regions and limits are those of the manifest. Every vector for this plugin is answered as the file says, or
//     the load is refused. It is run when a version is taken in, not each time it is loaded again.
//
// # Imports
//
// wasi-stub is for plugins made with stock Go, whose runtime does not start without. Of wasi_snapshot_preview1 there are args_get,
// args_sizes_get, environ_get, environ_sizes_get (none of either), clock_time_get (2^60 ns, always), random_get (bytes of 7, paid
// as memory.fill is), fd_write, fd_close, fd_fdstat_get, fd_fdstat_set_flags, fd_prestat_get, fd_prestat_dir_name (8, bad
// descriptor), poll_oneoff (52, not supported), sched_yield (0) and proc_exit (a trap); 21 where a result has no place in memory.
//
// sluice_v1.log (level i32: 0 debug to 3 error, ptr i32, len i32) → () writes up to 256 printable bytes into the host's log, 10 times a
// second and plugin, if the grant log is in effect, and does nothing otherwise. It is a way out for data: for trying out, not for use.
//
// # Request
//
// Little-endian, padded with zeros to 8 bytes, all offsets from its beginning. Header of 64 bytes:
//
//	0 u32 record_len   4 u16 version 1      6 u16 header_len 64   8 u64 msg_id          16 i64 time_ms
//	24 u8 protocol     25 u8 encoding       26 u8 grade           27 u8 flags           28 u32 payload_len
//	32 u32 payload_off 36 u32 findings_off  40 u16 findings_n     42 u16 labels_n       44 u32 labels_off
//	48 u32 topic_off   52 u16 topic_len     54 u16 source_len     56 u32 source_off     60 u32 0
//
// msg_id is the counter half of the message's id; time_ms is when the message was received; grade is the highest over all findings,
// 0 for ungraded; flags: 1 the payload is there, 8 the verdict
// is only compared with another version's (shadow). The source is Env.Pseudonym of the device unless read.source is granted.
// A category's number is 1 + its index in the manifest's labels, 0 when it is not listed; labels are those of the message as a
// whole, and a label count:NAME says that the message goes beyond a count that the host keeps (PluginConfig.Counts). One finding is 32 bytes, in the order of the classification:
//
//	0 u32 off  4 u32 len  8 u16 category  10 u8 kind  11 u8 confidence  12 u8 grade  13 u8 flags (1 personal, 2 sensitive)
//	14 u16 key_len  16 u32 key_off  20 u32 val_off  24 u32 val_len  28 u32 0
//
// off and len are the value's raw bytes in the payload; 0, 0 for topic levels, client ids and keys written with escapes. kind: 1
// string (also keys, topic levels, client ids), 2 number, 3 bool, 4 bytes, 5 subtree, null or the whole body. The key is the field's
// name, for an element that of the nearest container with a name; it is left out when it holds a finding whose value was not granted.
// val_off is 0 unless read.value of the category is granted: then a position is f64 latitude, f64 longitude, u32 datum (20 bytes, shared by both
// findings), and anything else its decoded text. The payload needs read.payload.
//
// Example: {"lat":39.9,"lon":116.4} on topic "t", two findings of category 1 with the value granted: header, 64 bytes of findings, "t" at
// 128, padding, the position at 136 (20 bytes), "lat" at 156, "lon" at 159, padding: record_len 168.
//
// # Verdict
//
// The returned length is that of the record at the beginning of the out region; a negative number is an error (-1 malformed request, -2
// version, -3 out region too small, -4 internal) and keeps the instance.
//
//	0 u32 record_len = 16 + 16·edits_n + pad8(2·labels_n)   4 u16 version 1   6 u8 action (1 none, 2 hold, 3 block)   7 u8 grade (0 to 3)
//	8 u16 edits_n ≤ 4096   10 u16 labels_n ≤ 64   12 u16 reason (0 or one of the manifest)   14 u16 0
//	edit: u8 target, u8 op, u16 label, u32 a, u32 b, u32 param
//
// Edits follow the header, then labels (u16, each once), then zeros. Target 0: a is a finding, b is 0. Target 1 (needs read.payload): a and b
// are offset and length in the payload, within one scalar on which there is a finding; the edit is then one of that finding. Edits rise:
// findings by index, then ranges by offset, without overlap, one for each finding, and only for findings whose category the plugin may
// see. label is 0 or the category in whose name the edit is made. op 1 mask, 2 generalize, 3 tokenize, 4 encrypt: param is an id of the operator's edits with
// that action; 6 remove: param 0; 7 regrade: param is the grade, 1 to 3.
//
// # Left for later
//
// Not granted in this version: replace, declassify. Not done: sealed configuration files, the request flag for
// replay.
//
// # Goroutines
//
// None. Calls run in the goroutine of the caller of Filter.
package wasm
