const ID = /^[0-9a-f]{32}$/

// take returns the id of a message, and its body as the gateway decided it; null when it carries none. identity is
// uplinks[].identity of the gateway's configuration. JSON.parse rounds large numbers: who needs them exactly parses otherwise.
export function take (identity, payload) {
  let members
  try {
    members = JSON.parse(payload)
  } catch {
    return null
  }
  if (members === null || typeof members !== 'object' || Array.isArray(members)) return null
  const { mode = 'field', id_field: idField = '_sluice_id', salt_field: salt = '_sluice_salt', body_field: body = '_sluice_body' } = identity
  const id = Object.hasOwn(members, mode === 'field' ? idField : 'id') && members[mode === 'field' ? idField : 'id']
  if (typeof id !== 'string' || !ID.test(id)) return null
  if (mode === 'cloudevents') return { id, body: members.data }
  if (Object.hasOwn(members, body)) return { id, body: members[body] }
  delete members[idField]
  delete members[salt]
  return { id, body: members }
}
