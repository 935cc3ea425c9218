// Publishes COUNT messages of QoS 1 with npm's mqtt client and prints how many were acknowledged.
const mqtt = require('mqtt')
const [url, count] = [process.argv[2], Number(process.argv[3])]
const client = mqtt.connect(url, { protocolVersion: 4, clientId: 'npm-mqtt', reconnectPeriod: 0, keepalive: 5 })
client.on('error', (err) => { console.error(err.message); process.exit(1) })
client.on('connect', async () => {
  const sent = []
  for (let i = 0; i < count; i++) sent.push(client.publishAsync('v1/npm/x', String(i), { qos: 1 }))
  await Promise.all(sent)
  console.log(count)
  await client.endAsync()
})
