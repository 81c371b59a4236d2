// kafkajs under the scenarios: answers the calls that `remote.py` describes, one call of the library each.
//
// kafkajs cannot read partitions by hand: `Reading` joins a group of its own name, alone, and seeks. It does not batch
// either: `Sending` makes the batches.

const readline = require("readline");
const crypto = require("crypto");
const { Kafka, Partitioners, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } = require("kafkajs");
const lz4 = require("lz4js");
const xxh32 = require("lz4js/xxh32.js");
const zstd = require("@bokuweb/zstd-wasm");

CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => independent(Buffer.from(lz4.compress(encoder.buffer))),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
});
const CODECS = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 };

// Kafka wants the frame's flag that its blocks do not depend on one another; lz4js makes a single block and says nothing.
function independent(frame) {
  frame[4] |= 0x20;
  frame[6] = (xxh32.hash(0, frame, 4, 2) >> 8) & 0xff;
  return frame;
}

const kafka = (patience) =>
  new Kafka({
    clientId: "compat",
    brokers: [process.env.COMPAT_BOOTSTRAP],
    logLevel: logLevel.NOTHING,
    retry: { initialRetryTime: 50, maxRetryTime: 500, retries: patience * 2 },
  });
const things = []; // producers, consumers and members, by number

// An admin client that was asked about a topic fails in all its calls once that topic is deleted: each call has its own.
const admin = new Proxy({}, { get: (_, call) => (given) => withAdmin((one) => one[call](given)) });
async function withAdmin(work) {
  const one = kafka(4).admin();
  await one.connect();
  try {
    return await work(one);
  } finally {
    await one.disconnect();
  }
}

class Refused extends Error {
  constructor(name) {
    super(name);
    this.type = name;
  }
}
class Absent extends Error {}
const absent = (what) => {
  throw new Absent(`kafkajs 2.2.4 has no ${what}`);
};

const keep = (thing) => things.push(thing) - 1;
const buffer = (text) => (text === null ? null : Buffer.from(text, "base64"));
const base64 = (bytes) => (bytes === null || bytes === undefined ? null : Buffer.from(bytes).toString("base64"));
const now = () => Number(process.hrtime.bigint() / 1000000n);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const byPartition = (offsets) =>
  Object.entries(offsets).map(([partition, offset]) => ({ partition: Number(partition), offset: String(offset) }));

// Kafka's name of the error, or the library's own where it is no answer of the broker.
function nameOf(error) {
  const inner = (error.errors || error.groups || error.partitions || [])[0];
  if (inner) return nameOf(inner.error || inner);
  return error.type || (error.cause && error.cause !== error && nameOf(error.cause)) || error.name;
}

const calls = {
  cluster: async () => {
    const found = await admin.describeCluster();
    const brokers = found.brokers.map((broker) => broker.nodeId);
    return { brokers, controller: found.controller, cluster_id: found.clusterId };
  },
  topics: () => admin.listTopics(),
  partitions: async (topic) => {
    const found = await admin.fetchTopicMetadata({ topics: [topic] });
    return found.topics[0].partitions.length;
  },
  create_topics: async (topics, configs, replication) => {
    const configEntries = Object.entries(configs).map(([name, value]) => ({ name, value }));
    const wanted = Object.entries(topics).map(([topic, numPartitions]) => ({
      topic, numPartitions, replicationFactor: replication, configEntries,
    }));
    // Waiting for leaders fails where it should wait. "Already exists" is not thrown: the answer is false.
    if (!(await admin.createTopics({ topics: wanted, waitForLeaders: false }))) throw new Refused("TOPIC_ALREADY_EXISTS");
  },
  delete_topics: (topics) => admin.deleteTopics({ topics }),
  add_partitions: (topic, count) => admin.createPartitions({ topicPartitions: [{ topic, count }] }),
  delete_records: (topic, before) =>
    withAdmin(async (one) => {
      await one.fetchTopicOffsets(topic); // it looks for the leaders before it asks for them
      await one.deleteTopicRecords({ topic, partitions: byPartition(before) });
    }),
  configs: (topic) => describe(ConfigResourceTypes.TOPIC, topic),
  broker_configs: (node) => describe(ConfigResourceTypes.BROKER, String(node)),
  replace_configs: async (topic, configs) => {
    const configEntries = Object.entries(configs).map(([name, value]) => ({ name, value }));
    await admin.alterConfigs({ resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries }] });
  },
  change_configs: () => absent("IncrementalAlterConfigs"),
  offset: async (topic, partition, when, options) => {
    if (options.isolation === "read_committed") absent("isolation level for offsets");
    const named = when === "earliest" || when === "latest";
    const all = await withAdmin((one) =>
      named ? one.fetchTopicOffsets(topic) : one.fetchTopicOffsetsByTimestamp(topic, when));
    const found = all.find((each) => each.partition === partition);
    const offset = Number(when === "earliest" ? found.low : when === "latest" ? found.high : found.offset);
    return offset < 0 ? null : offset;
  },
  groups: async () => (await admin.listGroups()).groups.map((group) => group.groupId),
  describe_group: async (group) => {
    const found = (await admin.describeGroups([group])).groups[0];
    return { state: found.state.toUpperCase(), members: found.members.length };
  },
  delete_group: (group) => admin.deleteGroups([group]),
  committed: async (groupId, topic) => {
    const found = (await admin.fetchOffsets({ groupId, topics: [topic] }))[0].partitions;
    return Object.fromEntries(found.filter((p) => Number(p.offset) >= 0).map((p) => [p.partition, Number(p.offset)]));
  },
  alter_offsets: (groupId, topic, offsets) => admin.setOffsets({ groupId, topic, partitions: byPartition(offsets) }),
  delete_offsets: () => absent("admin call to delete committed offsets"),
  produce_open: async (topic, options) => keep(await new Sending(topic, options).open()),
  produce_send: (number, messages) => things[number].add(messages),
  produce_close: (number) => things[number].close(),
  transactor_open: async (id, options) => keep(await new Transacting(id, options).open()),
  transactor_init: (number) => things[number].init(),
  transactor_begin: (number) => things[number].begin(),
  transactor_send: (number, topic, messages) => things[number].send(topic, messages),
  transactor_offsets: (number, offsets, group) => things[number].sendOffsets(offsets, group),
  transactor_commit: (number) => things[number].transaction.commit(),
  transactor_abort: (number) => things[number].transaction.abort(),
  transactor_close: (number) => things[number].producer.disconnect(),
  source_open: async (topic, options) => keep(await new Asked(topic, options).open()),
  source_poll: (number, count, wait) => things[number].poll(count, wait),
  source_owned: (number) => things[number].owned,
  source_rewind: (number) => things[number].rewind(),
  source_membership: () => absent("group metadata for transactions (KIP-447)"),
  source_leave: (number) => things[number].leave(),
  transactions: () => absent("list of transactions"),
  describe_transaction: () => absent("description of transactions"),
  open_producers: () => absent("description of producers"),
  abort_hanging: () => absent("admin call to abort a transaction"),
  fence: () => absent("admin call to fence producers"),
  consumer_open: async (topic, starts, options) => keep(await new Reading(topic, starts, options).open()),
  consumer_seek: (number, starts) => things[number].seek(starts),
  consumer_take: (number, count, wait) => things[number].take(count, wait),
  consumer_close: (number) => things[number].close(),
  member_open: async (topics, options) => keep(await new Member(topics, options).open()),
  member_journal: (number, since) => things[number].journal.slice(since),
  member_owned: (number) => things[number].owned,
  member_commit: async (number, offsets, wait) => {
    const done = things[number].commit(offsets);
    if (wait) await done;
  },
  member_committed: () => absent("call for committed offsets on the consumer"),
  member_seek: (number, topic, partition, offset) =>
    things[number].consumer.seek({ topic, partition, offset: String(offset) }),
  member_leave: (number) => things[number].consumer.disconnect(),
};

async function describe(type, name) {
  const found = await admin.describeConfigs({ resources: [{ type, name }], includeSynonyms: false });
  return Object.fromEntries(found.resources[0].configEntries.map((each) => [each.configName, each.configValue]));
}

function messageOf([value, key, partition, headers, timestamp]) {
  if (headers.some(([, text]) => text === null)) absent("null header values");
  const named = {};
  for (const [name, text] of headers) (named[name] ??= []).push(buffer(text));
  const message = { value: buffer(value), key: buffer(key), headers: named };
  if (partition !== null) message.partition = partition;
  if (timestamp !== null) message.timestamp = String(timestamp);
  return message;
}

// The library tells the first offset in each partition.
function offsetsOf(messages, results) {
  const next = new Map((results || []).map((each) => [each.partition, Number(each.baseOffset)]));
  return messages.map(({ partition }) => {
    const offset = next.get(partition);
    if (offset === undefined || offset < 0) return null;
    next.set(partition, offset + 1);
    return offset;
  });
}

class Sending {
  constructor(topic, options) {
    this.topic = topic;
    this.request = { acks: { all: -1 }[options.acks || "all"] ?? Number(options.acks) };
    this.request.compression = CODECS[options.codec || "none"];
    const idempotent = Boolean(options.idempotent);
    if (options.in_flight > 1 && !idempotent) absent("order among requests in flight");
    this.bytesMax = options.batch_bytes || 500000;
    this.producer = kafka(options.patience || 30).producer({
      createPartitioner: Partitioners.DefaultPartitioner, idempotent, maxInFlightRequests: 1,
    });
    this.offsets = [];
    this.queue = [];
    this.work = Promise.resolve();
  }

  async open() {
    await this.producer.connect();
    return this;
  }

  // One request at a time; what gathers meanwhile goes into the next.
  add(messages) {
    for (const fields of messages) this.queue.push({ message: messageOf(fields), at: this.offsets.push(null) - 1 });
    this.work = this.work.then(() => this.drain());
    this.work.catch(() => {});
  }

  async drain() {
    while (this.queue.length) {
      const batch = [];
      let bytes = 0;
      do {
        batch.push(this.queue.shift());
        bytes += 70 + (batch.at(-1).message.value || "").length;
      } while (this.queue.length && bytes + (this.queue[0].message.value || "").length < this.bytesMax);
      await this.send(batch);
    }
  }

  async send(batch) {
    const messages = batch.map((each) => each.message);
    const results = await this.producer.send({ topic: this.topic, ...this.request, messages });
    offsetsOf(messages, results).forEach((offset, index) => (this.offsets[batch[index].at] = offset));
  }

  async close() {
    try {
      await this.work;
      return this.offsets;
    } finally {
      await this.producer.disconnect();
    }
  }
}

// The library asks for a producer id when the first transaction begins: `init` begins it, the first `begin` finds it.
//
// Of a send to several brokers of which one refuses, it sends again what others are about to take, under new sequence
// numbers: twice in the log. A new transaction is refused while the one before is ending, so it begins with one partition.
class Transacting {
  constructor(id, options) {
    this.producer = kafka(options.patience || 30).producer({
      createPartitioner: Partitioners.DefaultPartitioner, idempotent: true, maxInFlightRequests: 1,
      transactionalId: id, transactionTimeout: options.timeout_ms || 60000,
    });
  }

  async open() {
    await this.producer.connect();
    return this;
  }

  async init() {
    this.transaction = await this.producer.transaction();
    this.ahead = true;
  }

  async begin() {
    if (!this.ahead) this.transaction = await this.producer.transaction();
    this.ahead = this.underWay = false;
  }

  async send(topic, messages) {
    const wanted = messages.map(messageOf);
    const isFirst = this.underWay ? () => false : ({ partition }) => partition === wanted[0].partition;
    const results = [];
    for (const some of [wanted.filter(isFirst), wanted.filter((each) => !isFirst(each))]) {
      if (some.length) results.push(...(await this.transaction.send({ topic, acks: -1, messages: some })));
    }
    this.underWay = true;
    return offsetsOf(wanted, results);
  }

  sendOffsets(offsets, consumerGroupId) {
    const topics = offsets.map(([topic, partition, offset]) => ({ topic, partitions: byPartition({ [partition]: offset }) }));
    return this.transaction.sendOffsets({ consumerGroupId, topics });
  }
}

function consumerOf(groupId, options) {
  return kafka(10).consumer({
    groupId,
    allowAutoTopicCreation: false, // or its refreshed metadata brings back a topic that was just deleted
    sessionTimeout: options.session_ms || 10000,
    heartbeatInterval: options.heartbeat_ms || 500,
    rebalanceTimeout: 10000,
    readUncommitted: options.isolation !== "read_committed",
    maxWaitTimeInMs: options.max_wait_ms || 500,
    maxBytesPerPartition: options.partition_bytes || 1048576,
    metadataMaxAge: 1000,
  });
}

function recordOf(each, partition) {
  const headers = Object.entries(each.headers || {}).flatMap(([name, value]) =>
    [value].flat().map((one) => [name, base64(one)]));
  const start = [partition, Number(each.offset), Number(each.timestamp), null];
  return [...start, base64(each.key), base64(each.value), headers];
}

class Reading {
  constructor(topic, starts, options) {
    if (options.reset === "none") absent("way to do without a reset");
    Object.assign(this, { topic, starts, options, records: [], ready: false });
    this.consumer = consumerOf(`reading-${crypto.randomUUID()}`, options);
  }

  async open() {
    await this.consumer.connect();
    await this.consumer.subscribe({ topics: [this.topic], fromBeginning: this.options.reset !== "latest" });
    const joined = new Promise((resolve) => this.consumer.on(this.consumer.events.GROUP_JOIN, resolve));
    await this.consumer.run({
      autoCommit: false, eachBatchAutoResolve: false, eachBatch: (payload) => this.receive(payload),
    });
    await joined; // `run` may end before: while the coordinator still loads it starts over on its own
    this.seek(this.starts);
    this.ready = true;
    return this;
  }

  async receive({ batch, resolveOffset, isStale }) {
    if (!this.ready || isStale() || !(batch.partition in this.starts)) return;
    for (const each of batch.messages) {
      this.records.push(recordOf(each, batch.partition));
      resolveOffset(each.offset);
    }
  }

  seek(starts) {
    this.records = [];
    for (const { partition, offset } of byPartition(starts)) {
      this.consumer.seek({ topic: this.topic, partition, offset });
    }
  }

  async take(count, wait) {
    const deadline = now() + wait * 1000;
    while (this.records.length < count && now() < deadline) await sleep(5);
    return this.records.splice(0);
  }

  close() {
    this.consumer.disconnect().catch(() => {}); // it waits for the fetch under way, which nobody here has to
  }
}

class Member {
  constructor(topics, options) {
    if (options.protocol !== "classic") absent("consumer protocol (KIP-848)");
    if (options.cooperative) absent("cooperative rebalancing");
    if (options.instance) absent("static membership");
    if (options.reset === "none") absent("way to do without a reset");
    Object.assign(this, { options, journal: [], owned: [] });
    this.topics = Array.isArray(topics) ? topics : [new RegExp(topics)];
    this.consumer = consumerOf(options.group, options);
  }

  async open() {
    const { GROUP_JOIN, REBALANCING, DISCONNECT, CRASH } = this.consumer.events;
    this.consumer.on(GROUP_JOIN, ({ payload }) => {
      this.owned = Object.entries(payload.memberAssignment).flatMap(([topic, all]) => all.map((p) => [topic, p]));
      this.noteOwned("assigned");
    });
    this.consumer.on(REBALANCING, () => this.giveUp());
    this.consumer.on(DISCONNECT, () => this.giveUp());
    this.consumer.on(CRASH, ({ payload }) => this.note("refused", nameOf(payload.error), -1, -1));
    await this.consumer.connect();
    await this.consumer.subscribe({ topics: this.topics, fromBeginning: this.options.reset !== "latest" });
    // It joins on its own time; a rebalance under way must not hold up the answer.
    this.consumer
      .run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch: (payload) => this.receive(payload) })
      .catch((error) => this.note("refused", nameOf(error), -1, -1));
    return this;
  }

  giveUp() {
    this.noteOwned("revoked");
    this.owned = [];
  }

  noteOwned(kind) {
    for (const [topic, partition] of this.owned) this.note(kind, topic, partition, -1);
  }

  note(kind, topic, partition, offset) {
    this.journal.push([now(), kind, topic, partition, offset]);
  }

  async receive({ batch, resolveOffset, isStale }) {
    if (isStale()) return;
    for (const each of batch.messages) {
      this.note("took", batch.topic, batch.partition, Number(each.offset));
      resolveOffset(each.offset);
    }
    if (!this.options.commits || !batch.messages.length) return;
    const next = Number(batch.messages.at(-1).offset) + 1;
    try {
      await this.commit([[batch.topic, batch.partition, next]]);
      this.note("committed", batch.topic, batch.partition, next);
    } catch (error) {
      this.note("refused", nameOf(error), -1, -1);
      throw error; // the library rejoins on what the coordinator says
    }
  }

  commit(offsets) {
    return this.consumer.commitOffsets(
      offsets.map(([topic, partition, offset]) => ({ topic, partition, offset: String(offset) })));
  }
}

// A member of a group that reads when it is asked: what it is given waits, and with it the next fetch.
class Asked {
  constructor(topic, options) {
    if (options.protocol !== "classic") absent("consumer protocol (KIP-848)");
    Object.assign(this, { topic, options, owned: [], waiting: [], generation: 0, over: false });
    this.consumer = consumerOf(options.group, options);
  }

  async open() {
    const { GROUP_JOIN, REBALANCING } = this.consumer.events;
    this.consumer.on(GROUP_JOIN, ({ payload }) => {
      this.owned = Object.entries(payload.memberAssignment).flatMap(([topic, all]) => all.map((p) => [topic, p]));
    });
    this.consumer.on(REBALANCING, () => this.forget());
    await this.consumer.connect();
    await this.consumer.subscribe({ topics: [this.topic], fromBeginning: this.options.reset !== "latest" });
    this.consumer
      .run({
        autoCommit: false, eachBatchAutoResolve: false, partitionsConsumedConcurrently: 8,
        eachBatch: (payload) => this.receive(payload),
      })
      .catch(() => {});
    return this;
  }

  async receive({ batch, resolveOffset, heartbeat, isStale, isRunning }) {
    const generation = this.generation;
    for (const each of batch.messages) this.waiting.push([each, batch.partition, resolveOffset]);
    while (this.waiting.some(([, partition]) => partition === batch.partition)) {
      if (this.over || isStale() || !isRunning() || generation !== this.generation) return;
      await heartbeat();
      await sleep(10);
    }
  }

  forget() {
    this.generation += 1;
    this.waiting = [];
  }

  async poll(count, wait) {
    const deadline = now() + wait * 1000;
    while (!this.waiting.length && now() < deadline) await sleep(5);
    return this.waiting.splice(0, count).map(([each, partition, resolveOffset]) => {
      resolveOffset(each.offset);
      return recordOf(each, partition);
    });
  }

  async rewind() {
    const found = await admin.fetchOffsets({ groupId: this.options.group, topics: [this.topic] });
    const committed = new Map(found[0].partitions.map((each) => [each.partition, Number(each.offset)]));
    this.forget();
    for (const [topic, partition] of this.owned) {
      this.consumer.seek({ topic, partition, offset: String(Math.max(0, committed.get(partition) ?? 0)) });
    }
  }

  leave() {
    this.over = true;
    return this.consumer.disconnect();
  }
}

async function answer({ id, call, arguments: given }) {
  try {
    return { id, result: (await calls[call](...given)) ?? null };
  } catch (error) {
    if (error instanceof Absent) return { id, absent: error.message };
    if (error instanceof Refused || String(error.name).startsWith("KafkaJS")) {
      return { id, refused: nameOf(error), detail: error.message };
    }
    return { id, error: String(error.stack || error) };
  }
}

async function main() {
  await zstd.init();
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("line", async (line) => process.stdout.write(`${JSON.stringify(await answer(JSON.parse(line)))}\n`));
  lines.on("close", () => process.exit(0));
}

main();
