// Shows how the receiving side tells copies of a message apart; the same as the consumer in Go, see there and in
// docs/delivery.md. The order is: process, write the window, sync it, acknowledge.
//
//   npm install
//   node consumer.mjs --broker mqtt://127.0.0.1:1884 --topic 'v1/#' --identity field --window seen.window
import { createRequire } from 'node:module'
import { parseArgs } from 'node:util'
import { Window } from './window.mjs'
import { take } from './identity.mjs'

const mqtt = createRequire(import.meta.url)('mqtt') // unlike import, also finds it over NODE_PATH

const { values: o } = parseArgs({
  options: {
    broker: { type: 'string', default: 'mqtt://127.0.0.1:1884' },
    topic: { type: 'string', default: 'v1/#' },
    client: { type: 'string', default: 'sluice-consumer-node' },
    identity: { type: 'string', default: 'field' },
    window: { type: 'string', default: 'seen.window' },
    size: { type: 'string', default: '32768' } // at least the uplink's inflight, for each gateway
  }
})
if (!['field', 'cloudevents'].includes(o.identity)) {
  console.error('consumer: error: --identity is cloudevents or field')
  process.exit(2)
}

const seen = new Window(o.window, Number(o.size))
const counts = { received: 0, processed: 0, duplicates: 0, nameless: 0 }

// This is where your program begins. This one prints a line.
function processed (id, topic, body) {
  counts.processed++
  process.stdout.write(JSON.stringify({ id, topic, body }) + '\n')
}

function consume (topic, payload) {
  if (topic.split('/').includes('$sluice')) return // epoch keys and checkpoints: they carry no id, twice does no harm
  counts.received++
  const m = take({ mode: o.identity }, payload)
  if (m === null) { // nobody can tell whether it is a copy: better twice than never
    counts.nameless++
    processed('', topic, payload.toString())
  } else if (seen.has(m.id)) {
    counts.duplicates++
  } else {
    processed(m.id, topic, m.body)
    seen.add(m.id)
    seen.sync()
  }
}

const client = mqtt.connect(o.broker, { clientId: o.client, clean: false, reconnectPeriod: 1000, resubscribe: false })
// The library acknowledges when this calls back, and reads the next message only then.
client.handleMessage = (packet, callback) => {
  try {
    consume(packet.topic, packet.payload)
    callback()
  } catch (err) {
    console.error('consumer: error:', err.message)
    process.exit(1)
  }
}
client.on('connect', () => client.subscribe(o.topic, { qos: 1 }))
client.on('error', err => console.error('consumer: error:', err.message))

function stop () {
  client.end(false, () => {
    console.error(`received ${counts.received}, processed ${counts.processed}, duplicates ${counts.duplicates}, without an id ${counts.nameless}`)
    seen.close()
    process.exit(0)
  })
}
process.on('SIGTERM', stop)
process.on('SIGINT', stop)
