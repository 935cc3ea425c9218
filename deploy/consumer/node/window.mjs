// A window over the last ids, in a file of the same format as that of the consumer in Go (deploy/consumer/go/window.go):
// slots of n(8) ‖ id(16) ‖ CRC-32C of these 24 bytes(4) ‖ 0(4), big-endian, message n in slot n modulo their count.
import fs from 'node:fs'

const SLOT = 32

const table = new Uint32Array(256).map((_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0x82f63b78 ^ (n >>> 1) : n >>> 1
  return n >>> 0
})

function crc32c (bytes) {
  let c = 0xffffffff
  for (const b of bytes) c = table[(c ^ b) & 0xff] ^ (c >>> 8)
  return (c ^ 0xffffffff) >>> 0
}

export class Window {
  #fd
  #ring
  #seen = new Set()
  #next = 1n

  // A file of another size keeps its newest ids.
  constructor (name, size) {
    if (!Number.isInteger(size) || size < 1) throw new Error(`open window: size ${size}`)
    this.#ring = new Array(size)
    const data = fs.existsSync(name) ? fs.readFileSync(name) : Buffer.alloc(0)
    let slots = []
    let inPlace = true
    for (let at = 0; (at + 1) * SLOT <= data.length; at++) {
      const s = data.subarray(at * SLOT, (at + 1) * SLOT)
      const n = s.readBigUInt64BE(0)
      if (n === 0n || crc32c(s.subarray(0, 24)) !== s.readUInt32BE(24)) continue // never written, or torn and so never synced
      slots.push({ n, id: s.toString('hex', 8, 24) })
      inPlace = inPlace && Number(n % BigInt(size)) === at
    }
    slots = slots.sort((a, b) => (a.n < b.n ? -1 : 1)).slice(-size)
    if (inPlace) {
      this.#fd = fs.openSync(name, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600)
      for (const s of slots) this.#put(s.n, s.id)
      return
    }
    this.#fd = fs.openSync(name + '.new', 'w+', 0o600)
    for (const s of slots) this.add(s.id)
    this.sync()
    fs.renameSync(name + '.new', name)
  }

  has (id) { return this.#seen.has(id) }

  // The id, 32 hexadecimal digits in lower case, takes the place of the oldest. It lasts once sync returned.
  add (id) {
    const s = Buffer.alloc(SLOT)
    s.writeBigUInt64BE(this.#next, 0)
    s.write(id, 8, 'hex')
    s.writeUInt32BE(crc32c(s.subarray(0, 24)), 24)
    fs.writeSync(this.#fd, s, 0, SLOT, Number(this.#next % BigInt(this.#ring.length)) * SLOT)
    this.#put(this.#next, id)
  }

  #put (n, id) {
    const at = Number(n % BigInt(this.#ring.length))
    if (this.#ring[at] !== undefined) this.#seen.delete(this.#ring[at])
    this.#ring[at] = id
    this.#seen.add(id)
    this.#next = n + 1n
  }

  sync () { fs.fdatasyncSync(this.#fd) }
  close () { fs.closeSync(this.#fd) }
}
