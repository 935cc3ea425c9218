// Decrypts compact JWEs with npm's jose. Standard input: {"jwk":{…},"fields":["…"]}; standard output: the plaintexts as a
// JSON array of strings. jose is found over NODE_PATH.
const { createRequire } = require('node:module');
let input = '';
process.stdin.on('data', (d) => (input += d)).on('end', async () => {
  try {
    const jose = await import(createRequire(__filename).resolve('jose')).catch(() => require('jose'));
    const { jwk, fields } = JSON.parse(input);
    const key = await jose.importJWK(jwk, 'dir');
    const out = [];
    for (const field of fields) {
      const { plaintext, protectedHeader } = await jose.compactDecrypt(field, key, {
        keyManagementAlgorithms: ['dir'],
        contentEncryptionAlgorithms: ['A256GCM'],
      });
      if (!protectedHeader.kid.startsWith(jwk.kid + '.')) throw new Error('kid of another epoch');
      out.push(new TextDecoder().decode(plaintext));
    }
    process.stdout.write(JSON.stringify(out));
  } catch (e) {
    console.error(String(e));
    process.exit(1);
  }
});
