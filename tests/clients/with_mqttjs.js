// MQTT.js against a broker: node with_mqttjs.js URL 4|5 [CAFILE]. Says "fine", or fails.
const assert = require('node:assert');
const mqtt = require('mqtt');

const [url, level, cafile] = process.argv.slice(2);
const version = Number(level);
const base = `js${version}-${url.split(":")[0]}`;
const ca = cafile && require('node:fs').readFileSync(cafile);

// A client with what it got, and a way to wait for more of that.
async function join(name, options = {}) {
  const client = mqtt.connect(url, {
    protocolVersion: version, clientId: `${base}-${name}`, clean: true, reconnectPeriod: 0, ca, ...options,
  });
  const got = [];
  let heard = () => {};
  client.on('message', (topic, payload, packet) => { got.push({ topic, text: payload.toString(), packet }); heard(); });
  const connack = await new Promise((resolve, reject) => { client.once('connect', resolve); client.once('error', reject); });
  const next = async (count = 1) => {
    while (got.length < count) await new Promise((resolve) => { heard = resolve; });
    return got.splice(0, count);
  };
  return { client, connack, next };
}

async function main() {
  const a = await join('a');
  await a.client.subscribeAsync(`${base}/#`, { qos: 2 });
  for (const qos of [0, 1, 2]) {
    await a.client.publishAsync(`${base}/qos`, `${qos}`, { qos });
    const [{ text, packet }] = await a.next();
    assert.deepEqual([text, packet.qos, packet.retain], [`${qos}`, qos, false]);
  }

  await a.client.publishAsync(`${base}/kept`, 'kept', { qos: 1, retain: true });
  await a.next();
  const late = await join('late');
  await late.client.subscribeAsync(`${base}/kept`, { qos: 1 });
  const [kept] = await late.next();
  assert.deepEqual([kept.text, kept.packet.retain], ['kept', true]);
  await a.client.publishAsync(`${base}/kept`, '', { qos: 1, retain: true });
  await a.next();
  await late.client.endAsync();

  const dying = await join('dying', { will: { topic: `${base}/will`, payload: Buffer.from('gone'), qos: 1 } });
  dying.client.stream.destroy();
  assert.equal((await a.next())[0].text, 'gone');

  const stays = { clean: false, properties: version === 5 ? { sessionExpiryInterval: 60 } : undefined };
  const before = await join('stays', stays);
  assert.equal(before.connack.sessionPresent, false);
  await before.client.subscribeAsync(`${base}/later`, { qos: 1 });
  await before.client.endAsync();
  await a.client.publishAsync(`${base}/later`, 'waited', { qos: 1 });
  await a.next();
  const after = await join('stays', stays);
  assert.equal(after.connack.sessionPresent, true);
  assert.equal((await after.next())[0].text, 'waited');
  await after.client.endAsync();

  const members = [await join('m1'), await join('m2')];
  let shared = 0;
  for (const member of members) {
    member.client.on('message', () => { shared += 1; });
    await member.client.subscribeAsync(`$share/group/${base}/shared`, { qos: 1 });
  }
  for (let i = 0; i < 4; i += 1) await a.client.publishAsync(`${base}/shared`, `${i}`, { qos: 1 });
  await a.next(4);
  // Two each: it is fair.
  for (const member of members) await member.next(2);
  assert.equal(shared, 4);
  for (const member of members) await member.client.endAsync();

  if (version === 5) {
    const properties = {
      userProperties: { b: ['2', '1'], a: '3' }, messageExpiryInterval: 100, responseTopic: `${base}/answer`,
      correlationData: Buffer.from([1, 2]), contentType: 'text/plain', payloadFormatIndicator: true,
    };
    await a.client.publishAsync(`${base}/properties`, 'x', { qos: 1, properties });
    const [{ packet }] = await a.next();
    const { messageExpiryInterval, userProperties, ...others } = packet.properties;
    assert.ok(messageExpiryInterval > 90 && messageExpiryInterval <= 100);
    assert.deepEqual({ ...userProperties }, { b: ['2', '1'], a: '3' });
    assert.equal(others.responseTopic, `${base}/answer`);
    assert.deepEqual(others.correlationData, Buffer.from([1, 2]));
    assert.equal(others.contentType, 'text/plain');

    const aliased = await join('aliased', { properties: { topicAliasMaximum: 4 }, autoAssignTopicAlias: true });
    await aliased.client.subscribeAsync(`${base}/alias`, { qos: 1 });
    for (const text of ['1', '2', '3']) {
      await aliased.client.publishAsync(`${base}/alias`, text, { qos: 1 });
      const [got] = await aliased.next();
      assert.deepEqual([got.topic, got.text, got.packet.properties.topicAlias], [`${base}/alias`, text, 1]);
    }
    await a.next(3);
    await aliased.client.endAsync();
  }
  await a.client.endAsync();
  console.log('fine');
}

main().catch((error) => { console.error(error); process.exit(1); });
