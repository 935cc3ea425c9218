import test from 'node:test'
import assert from 'node:assert/strict'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Window } from './window.mjs'
import { take } from './identity.mjs'

const id = n => BigInt(n).toString(16).padStart(32, '0')
const scratch = t => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'window-'))
  t.after(() => fs.rmSync(dir, { recursive: true }))
  return path.join(dir, 'w')
}
const fill = (w, from, to) => {
  for (let n = from; n <= to; n++) w.add(id(n))
  w.sync()
}
const held = (w, most) => Array.from({ length: most }, (_, i) => i + 1).filter(n => w.has(id(n)))

test('a window holds the last ids across restarts', t => {
  const name = scratch(t)
  fill(new Window(name, 10), 1, 7)
  fill(new Window(name, 10), 8, 25)
  assert.deepEqual(held(new Window(name, 10), 30), [16, 17, 18, 19, 20, 21, 22, 23, 24, 25])
  assert.deepEqual(held(new Window(name, 4), 30), [22, 23, 24, 25])
  const wide = new Window(name, 100)
  fill(wide, 26, 30)
  assert.deepEqual(held(new Window(name, 100), 30), [22, 23, 24, 25, 26, 27, 28, 29, 30])
})

test('a torn slot is forgotten', t => {
  const name = scratch(t)
  fill(new Window(name, 8), 1, 5)
  const data = fs.readFileSync(name)
  data[3 * 32 + 12]++
  fs.writeFileSync(name, Buffer.concat([data, Buffer.from('torn')]))
  assert.deepEqual(held(new Window(name, 8), 9), [1, 2, 4, 5])
})

test('the id is where the identity puts it', () => {
  const x = id(10)
  assert.deepEqual(take({ mode: 'cloudevents' }, `{"specversion":"1.0","id":"${x}","sluicesalt":"00","data":{"v":1}}`), { id: x, body: { v: 1 } })
  assert.deepEqual(take({ mode: 'field' }, `{"_sluice_id":"${x}","_sluice_salt":"00","v":1}`), { id: x, body: { v: 1 } })
  assert.deepEqual(take({ mode: 'field' }, `{"_sluice_id":"${x}","_sluice_salt":"00","_sluice_body":[1]}`), { id: x, body: [1] })
  assert.deepEqual(take({ mode: 'field', id_field: 'i', salt_field: 's' }, `{"i":"${x}","s":"00"}`), { id: x, body: {} })
  for (const payload of ['', '7', 'null', '[]', '{}', '{"_sluice_id":7}', '{"_sluice_id":"x"}', `{"_sluice_id":"${x}"`]) {
    assert.equal(take({ mode: 'field' }, payload), null)
  }
})
