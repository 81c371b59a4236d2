import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.AppInfoParser;

/**
 * Java's kafka-clients under the scenarios: answers the calls that `remote.py` describes, one method of the library
 * each. One source for 2.8, 3.9 and 4.3; what only some of them have is called by reflection (`either`).
 */
public class Adapter {
    interface Call {
        Object answer(JsonArray arguments) throws Exception;
    }

    static class Absent extends RuntimeException {
        Absent(String what) {
            super("kafka-clients " + AppInfoParser.getVersion() + " has no " + what);
        }
    }

    static final Gson GSON = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();
    static final boolean IS_4 = !AppInfoParser.getVersion().startsWith("2.") && !AppInfoParser.getVersion().startsWith("3.");
    static final String BOOTSTRAP = System.getenv("COMPAT_BOOTSTRAP");
    static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    static final Map<String, Call> CALLS = new HashMap<>();
    static final List<Object> THINGS = Collections.synchronizedList(new ArrayList<>()); // producers, consumers, members
    static final Admin ADMIN = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP, "request.timeout.ms", 15000, "default.api.timeout.ms", 20000,
        "reconnect.backoff.max.ms", 500));

    public static void main(String[] arguments) throws Exception {
        calls();
        ExecutorService threads = Executors.newCachedThreadPool();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            JsonObject asked = GSON.fromJson(line, JsonObject.class);
            threads.submit(() -> reply(asked));
        }
        System.exit(0);
    }

    static void reply(JsonObject asked) {
        Map<String, Object> answer = new LinkedHashMap<>();
        answer.put("id", asked.get("id").getAsInt());
        try {
            answer.put("result", CALLS.get(asked.get("call").getAsString()).answer(asked.getAsJsonArray("arguments")));
        } catch (Absent reason) {
            answer.put("absent", reason.getMessage());
        } catch (Throwable thrown) {
            Throwable error = thrown instanceof ExecutionException ? thrown.getCause() : thrown;
            if (error instanceof KafkaException || error instanceof IllegalStateException) {
                answer.put("refused", name(error));
                answer.put("detail", String.valueOf(error.getMessage()));
            } else {
                thrown.printStackTrace();
                answer.put("error", String.valueOf(thrown));
            }
        }
        OUT.println(GSON.toJson(answer));
    }

    /**
     * Kafka's name of the error, or the library's own where it is no answer of the broker. What the library refuses after
     * an error has that error as its cause; a commit that comes at once may be told of it either way.
     */
    static String name(Throwable error) {
        if (error.getClass() == KafkaException.class && error.getCause() instanceof KafkaException) return name(error.getCause());
        if (error instanceof OffsetOutOfRangeException) return "OFFSET_OUT_OF_RANGE";
        if (error instanceof CommitFailedException) return "CommitFailedException";
        Errors known = Errors.forException(error);
        return known == Errors.UNKNOWN_SERVER_ERROR ? error.getClass().getSimpleName() : known.name();
    }

    static void calls() {
        CALLS.put("cluster", a -> cluster());
        CALLS.put("topics", a -> ADMIN.listTopics().names().get());
        CALLS.put("partitions", a -> partitions(a.get(0).getAsString()));
        CALLS.put("create_topics", a -> done(ADMIN.createTopics(newTopics(a)).all()));
        CALLS.put("delete_topics", a -> done(ADMIN.deleteTopics(strings(a.get(0))).all()));
        CALLS.put("add_partitions", a -> done(ADMIN.createPartitions(
            Map.of(a.get(0).getAsString(), NewPartitions.increaseTo(a.get(1).getAsInt()))).all()));
        CALLS.put("delete_records", a -> done(ADMIN.deleteRecords(offsets(a.get(0).getAsString(), a.get(1)).entrySet().stream()
            .collect(Collectors.toMap(Map.Entry::getKey, e -> RecordsToDelete.beforeOffset(e.getValue())))).all()));
        CALLS.put("configs", a -> configs(new ConfigResource(ConfigResource.Type.TOPIC, a.get(0).getAsString())));
        CALLS.put("broker_configs", a -> configs(new ConfigResource(ConfigResource.Type.BROKER, a.get(0).getAsString())));
        CALLS.put("replace_configs", a -> replaceConfigs(a.get(0).getAsString(), texts(a.get(1))));
        CALLS.put("change_configs", a -> changeConfigs(a.get(0).getAsString(), texts(a.get(1)), strings(a.get(2))));
        CALLS.put("offset", a -> offset(new TopicPartition(a.get(0).getAsString(), a.get(1).getAsInt()), a.get(2).getAsString(),
            text(a.get(3).getAsJsonObject(), "isolation", "read_uncommitted")));
        CALLS.put("produce_open", a -> kept(new Sending(a.get(0).getAsString(), a.get(1).getAsJsonObject())));
        CALLS.put("produce_send", a -> Adapter.<Sending>kept(a).send(a.get(1).getAsJsonArray()));
        CALLS.put("produce_close", a -> Adapter.<Sending>kept(a).close());
        CALLS.put("consumer_open", a -> kept(new Reading(a.get(0).getAsString(), a.get(1), a.get(2).getAsJsonObject())));
        CALLS.put("consumer_seek", a -> Adapter.<Reading>kept(a).seek(a.get(1)));
        CALLS.put("consumer_take", a -> Adapter.<Reading>kept(a).take(a.get(1).getAsInt(), a.get(2).getAsDouble()));
        CALLS.put("consumer_close", a -> Adapter.<Reading>kept(a).close());
        CALLS.put("member_open", a -> kept(new Member(a.get(0), a.get(1).getAsJsonObject())));
        CALLS.put("member_journal", a -> Adapter.<Member>kept(a).since(a.get(1).getAsInt()));
        CALLS.put("member_owned", a -> Adapter.<Member>kept(a).owned);
        CALLS.put("member_commit", a -> Adapter.<Member>kept(a).commit(a.get(1).getAsJsonArray(), a.get(2).getAsBoolean()));
        CALLS.put("member_committed", a -> Adapter.<Member>kept(a).committed(new TopicPartition(a.get(1).getAsString(), a.get(2).getAsInt())));
        CALLS.put("member_seek", a -> Adapter.<Member>kept(a).seek(new TopicPartition(a.get(1).getAsString(), a.get(2).getAsInt()), a.get(3).getAsLong()));
        CALLS.put("member_leave", a -> Adapter.<Member>kept(a).leave());
        CALLS.put("transactor_open", a -> kept(new Transacting(a.get(0).getAsString(), a.get(1).getAsJsonObject())));
        CALLS.put("transactor_init", a -> done(() -> Adapter.<Transacting>kept(a).producer.initTransactions()));
        CALLS.put("transactor_begin", a -> done(() -> Adapter.<Transacting>kept(a).producer.beginTransaction()));
        CALLS.put("transactor_send", a -> Adapter.<Transacting>kept(a).send(a.get(1).getAsString(), a.get(2).getAsJsonArray(), a.get(3).getAsBoolean()));
        CALLS.put("transactor_offsets", a -> Adapter.<Transacting>kept(a).sendOffsets(a.get(1).getAsJsonArray(), a.get(2).getAsString(), a.get(3)));
        CALLS.put("transactor_commit", a -> done(() -> Adapter.<Transacting>kept(a).producer.commitTransaction()));
        CALLS.put("transactor_abort", a -> done(() -> Adapter.<Transacting>kept(a).producer.abortTransaction()));
        CALLS.put("transactor_close", a -> done(() -> Adapter.<Transacting>kept(a).producer.close(Duration.ofSeconds(2))));
        CALLS.put("source_open", a -> kept(new Asked(a.get(0).getAsString(), a.get(1).getAsJsonObject())));
        CALLS.put("source_poll", a -> Adapter.<Asked>kept(a).poll(a.get(1).getAsInt(), a.get(2).getAsDouble()));
        CALLS.put("source_owned", a -> Adapter.<Asked>kept(a).owned());
        CALLS.put("source_rewind", a -> done(() -> Adapter.<Asked>kept(a).rewind()));
        CALLS.put("source_membership", a -> kept(Adapter.<Asked>kept(a).consumer.groupMetadata()));
        CALLS.put("source_leave", a -> done(() -> Adapter.<Asked>kept(a).consumer.close(Duration.ofSeconds(5))));
        CALLS.put("transactions", a -> Transactions.list());
        CALLS.put("describe_transaction", a -> Transactions.describe(a.get(0).getAsString()));
        CALLS.put("open_producers", a -> Transactions.openProducers(new TopicPartition(a.get(0).getAsString(), a.get(1).getAsInt())));
        CALLS.put("abort_hanging", a -> Transactions.abort(new TopicPartition(a.get(0).getAsString(), a.get(1).getAsInt())));
        CALLS.put("fence", a -> Transactions.fence(a.get(0).getAsString()));
        CALLS.put("groups", a -> ADMIN.listConsumerGroups().all().get().stream().map(ConsumerGroupListing::groupId).collect(Collectors.toList()));
        CALLS.put("describe_group", a -> describe(a.get(0).getAsString()));
        CALLS.put("delete_group", a -> done(ADMIN.deleteConsumerGroups(strings1(a)).all()));
        CALLS.put("committed", a -> committed(a.get(0).getAsString(), a.get(1).getAsString()));
        CALLS.put("alter_offsets", a -> done(ADMIN.alterConsumerGroupOffsets(a.get(0).getAsString(), marks(offsets(a.get(1).getAsString(), a.get(2)))).all()));
        CALLS.put("delete_offsets", a -> deleteOffsets(a));
    }

    // ---- Topics, configs, offsets -----------------------------------------------------------------------------------

    static Object cluster() throws Exception {
        DescribeClusterResult found = ADMIN.describeCluster();
        return Map.of("brokers", found.nodes().get().stream().map(Node::id).collect(Collectors.toList()),
            "controller", found.controller().get().id(), "cluster_id", found.clusterId().get());
    }

    static int partitions(String topic) throws Exception {
        Map<?, ?> found = (Map<?, ?>) either(ADMIN.describeTopics(List.of(topic)), "topicNameValues", "values");
        return ((TopicDescription) ((Future<?>) found.get(topic)).get()).partitions().size();
    }

    static List<NewTopic> newTopics(JsonArray a) {
        List<NewTopic> wanted = new ArrayList<>();
        a.get(0).getAsJsonObject().entrySet().forEach(e -> wanted.add(
            new NewTopic(e.getKey(), e.getValue().getAsInt(), a.get(2).getAsShort()).configs(texts(a.get(1)))));
        return wanted;
    }

    static Map<String, String> configs(ConfigResource resource) throws Exception {
        Map<String, String> found = new TreeMap<>();
        ADMIN.describeConfigs(List.of(resource)).all().get().get(resource).entries().forEach(e -> found.put(e.name(), e.value()));
        return found;
    }

    /** AlterConfigs is gone from 4.0. */
    static Object replaceConfigs(String topic, Map<String, String> wanted) throws Exception {
        if (IS_4) throw new Absent("AlterConfigs");
        Config config = new Config(wanted.entrySet().stream().map(e -> new ConfigEntry(e.getKey(), e.getValue())).collect(Collectors.toList()));
        Object result = Admin.class.getMethod("alterConfigs", Map.class)
            .invoke(ADMIN, Map.of(new ConfigResource(ConfigResource.Type.TOPIC, topic), config));
        return done((Future<?>) either(result, "all"));
    }

    static Object changeConfigs(String topic, Map<String, String> put, List<String> remove) throws Exception {
        List<AlterConfigOp> steps = new ArrayList<>();
        put.forEach((name, value) -> steps.add(new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET)));
        remove.forEach(name -> steps.add(new AlterConfigOp(new ConfigEntry(name, null), AlterConfigOp.OpType.DELETE)));
        return done(ADMIN.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.TOPIC, topic), steps)).all());
    }

    static Long offset(TopicPartition at, String when, String isolation) throws Exception {
        OffsetSpec spec = when.equals("earliest") ? OffsetSpec.earliest() : when.equals("latest") ? OffsetSpec.latest()
            : OffsetSpec.forTimestamp(Long.parseLong(when));
        ListOffsetsOptions options = new ListOffsetsOptions(IsolationLevel.valueOf(isolation.toUpperCase(Locale.ROOT)));
        long found = ADMIN.listOffsets(Map.of(at, spec), options).partitionResult(at).get().offset();
        return found < 0 ? null : found;
    }

    // ---- The list of groups -----------------------------------------------------------------------------------------

    static Object describe(String group) throws Exception {
        ConsumerGroupDescription found = ADMIN.describeConsumerGroups(List.of(group)).all().get().get(group);
        return Map.of("state", ((Enum<?>) either(found, "groupState", "state")).name(), "members", found.members().size());
    }

    static Object committed(String group, String topic) throws Exception {
        Map<String, Long> found = new TreeMap<>();
        ADMIN.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().forEach((place, mark) -> {
            if (place.topic().equals(topic) && mark != null) found.put(String.valueOf(place.partition()), mark.offset());
        });
        return found;
    }

    static Object deleteOffsets(JsonArray a) throws Exception {
        Set<TopicPartition> places = new HashSet<>();
        a.get(2).getAsJsonArray().forEach(p -> places.add(new TopicPartition(a.get(1).getAsString(), p.getAsInt())));
        DeleteConsumerGroupOffsetsResult result = ADMIN.deleteConsumerGroupOffsets(a.get(0).getAsString(), places);
        for (TopicPartition place : places) result.partitionResult(place).get();
        return null;
    }

    // ---- Producer ---------------------------------------------------------------------------------------------------

    static KafkaProducer<byte[], byte[]> producer(JsonObject options, Map<String, Object> more) {
        long patience = number(options, "patience", 30) * 1000;
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", BOOTSTRAP);
        settings.put("acks", text(options, "acks", "all"));
        settings.put("compression.type", text(options, "codec", "none"));
        settings.put("enable.idempotence", options.has("idempotent") && options.get("idempotent").getAsBoolean());
        settings.put("linger.ms", number(options, "linger_ms", 0));
        settings.put("batch.size", (int) number(options, "batch_bytes", 16384));
        settings.put("max.in.flight.requests.per.connection", (int) number(options, "in_flight", 5));
        settings.put("max.request.size", (int) number(options, "request_bytes_max", 1048576));
        settings.put("max.block.ms", patience);
        settings.put("request.timeout.ms", (int) Math.min(patience, 10_000));
        settings.put("delivery.timeout.ms", (int) patience + 10_000);
        settings.put("reconnect.backoff.max.ms", 500);
        settings.putAll(more);
        return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    /** Hands the messages to the producer, without waiting. */
    static List<Future<RecordMetadata>> send(KafkaProducer<byte[], byte[]> producer, String topic, JsonArray messages) {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (JsonElement each : messages) {
            JsonArray m = each.getAsJsonArray();
            List<Header> headers = new ArrayList<>();
            m.get(3).getAsJsonArray().forEach(h -> headers.add(
                new RecordHeader(h.getAsJsonArray().get(0).getAsString(), bytes(h.getAsJsonArray().get(1)))));
            sent.add(producer.send(new ProducerRecord<>(topic, m.get(2).isJsonNull() ? null : m.get(2).getAsInt(),
                m.get(4).isJsonNull() ? null : m.get(4).getAsLong(), bytes(m.get(1)), bytes(m.get(0)), headers)));
        }
        return sent;
    }

    static List<Long> offsetsOf(List<Future<RecordMetadata>> sent) throws Exception {
        List<Long> offsets = new ArrayList<>();
        for (Future<RecordMetadata> each : sent) offsets.add(each.get().hasOffset() ? each.get().offset() : null);
        return offsets;
    }

    static class Sending {
        final String topic;
        final KafkaProducer<byte[], byte[]> producer;
        final List<Future<RecordMetadata>> sent = new ArrayList<>();

        Sending(String topic, JsonObject options) {
            this.topic = topic;
            producer = producer(options, Map.of());
        }

        Object send(JsonArray messages) {
            sent.addAll(Adapter.send(producer, topic, messages));
            return null;
        }

        List<Long> close() throws Exception {
            try {
                return offsetsOf(sent);
            } finally {
                producer.close(Duration.ofSeconds(5));
            }
        }
    }

    // ---- Transactions -----------------------------------------------------------------------------------------------

    /** A producer with a transactional id. */
    static class Transacting {
        final KafkaProducer<byte[], byte[]> producer;

        Transacting(String id, JsonObject options) {
            producer = producer(options, Map.of("transactional.id", id, "enable.idempotence", true,
                "transaction.timeout.ms", (int) number(options, "timeout_ms", 60_000)));
        }

        Object send(String topic, JsonArray messages, boolean wait) throws Exception {
            List<Future<RecordMetadata>> sent = Adapter.send(producer, topic, messages);
            return wait ? offsetsOf(sent) : List.of();
        }

        Object sendOffsets(JsonArray wanted, String group, JsonElement membership) throws Exception {
            ConsumerGroupMetadata told = membership.isJsonNull() ? new ConsumerGroupMetadata(group)
                : (ConsumerGroupMetadata) THINGS.get(membership.getAsInt());
            producer.sendOffsetsToTransaction(marks(places(wanted)), told);
            return null;
        }
    }

    /** A member of a group that reads when it is asked. */
    static class Asked {
        final KafkaConsumer<byte[], byte[]> consumer;

        Asked(String topic, JsonObject options) {
            Map<String, Object> more = membership(options);
            more.put("max.poll.records", 100);
            consumer = consumer(options, more);
            consumer.subscribe(List.of(topic));
        }

        synchronized Object poll(int count, double wait) {
            List<Object> found = new ArrayList<>();
            consumer.poll(Duration.ofNanos((long) (wait * 1e9))).forEach(each -> found.add(record(each)));
            return found;
        }

        synchronized Object owned() {
            return consumer.assignment().stream().map(p -> Arrays.<Object>asList(p.topic(), p.partition())).collect(Collectors.toList());
        }

        synchronized void rewind() {
            consumer.committed(consumer.assignment()).forEach((place, mark) -> {
                if (mark == null) consumer.seekToBeginning(Set.of(place));
                else consumer.seek(place, mark.offset());
            });
        }
    }

    /** The admin's calls about transactions, which kafka-clients has from 3.0 on. */
    static class Transactions {
        static Object list() throws Exception {
            Map<String, String> found = new TreeMap<>();
            for (Object each : (Collection<?>) ((Future<?>) either(ask("listTransactions"), "all")).get())
                found.put((String) either(each, "transactionalId"), String.valueOf(either(each, "state")));
            return found;
        }

        static Object describe(String id) throws Exception {
            Object found = ((Map<?, ?>) ((Future<?>) either(ask("describeTransactions", List.of(id)), "all")).get()).get(id);
            List<Object> places = new ArrayList<>();
            for (Object each : (Collection<?>) either(found, "topicPartitions"))
                places.add(Arrays.asList(((TopicPartition) each).topic(), ((TopicPartition) each).partition()));
            return Map.of("state", String.valueOf(either(found, "state")), "timeout_ms", either(found, "transactionTimeoutMs"), "places", places);
        }

        static Object openProducers(TopicPartition at) throws Exception {
            List<Object> found = new ArrayList<>();
            for (Object each : producers(at)) found.add(start(each).isPresent() ? start(each).getAsLong() : null);
            return found;
        }

        static Collection<?> producers(TopicPartition at) throws Exception {
            Object found = ((Map<?, ?>) ((Future<?>) either(ask("describeProducers", List.of(at)), "all")).get()).get(at);
            return (Collection<?>) either(found, "activeProducers");
        }

        static OptionalLong start(Object producer) throws Exception {
            return (OptionalLong) either(producer, "currentTransactionStartOffset");
        }

        static Object abort(TopicPartition at) throws Exception {
            for (Object each : producers(at))
                if (start(each).isPresent()) {
                    int coordinatorEpoch = ((OptionalInt) either(each, "coordinatorEpoch")).orElse(0);
                    Object spec = Class.forName("org.apache.kafka.clients.admin.AbortTransactionSpec")
                        .getConstructor(TopicPartition.class, long.class, short.class, int.class)
                        .newInstance(at, either(each, "producerId"), ((Integer) either(each, "producerEpoch")).shortValue(), coordinatorEpoch);
                    return done((Future<?>) either(ask("abortTransaction", spec), "all"));
                }
            return null;
        }

        static Object fence(String id) throws Exception {
            return done((Future<?>) either(ask("fenceProducers", List.of(id)), "all"));
        }

        static Object ask(String call, Object... given) throws Exception {
            for (java.lang.reflect.Method method : Admin.class.getMethods())
                if (method.getName().equals(call) && method.getParameterCount() == given.length) return method.invoke(ADMIN, given);
            throw new Absent("admin call " + call);
        }
    }

    // ---- Consumers --------------------------------------------------------------------------------------------------

    static KafkaConsumer<byte[], byte[]> consumer(JsonObject options, Map<String, Object> more) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", BOOTSTRAP);
        settings.put("enable.auto.commit", false);
        settings.put("auto.offset.reset", text(options, "reset", "none"));
        settings.put("isolation.level", text(options, "isolation", "read_uncommitted"));
        settings.put("fetch.max.wait.ms", (int) number(options, "max_wait_ms", 500));
        settings.put("max.partition.fetch.bytes", (int) number(options, "partition_bytes", 1048576));
        settings.put("reconnect.backoff.max.ms", 500);
        settings.putAll(more);
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    /** The settings that make a consumer a member of a group. */
    static Map<String, Object> membership(JsonObject options) {
        String protocol = text(options, "protocol", "classic");
        if (!protocol.equals("classic") && !IS_4) throw new Absent("finished consumer protocol (KIP-848)");
        Map<String, Object> more = new HashMap<>();
        more.put("group.id", options.get("group").getAsString());
        more.put("metadata.max.age.ms", 1000);
        if (protocol.equals("classic")) {
            more.put("session.timeout.ms", (int) number(options, "session_ms", 10_000));
            more.put("heartbeat.interval.ms", (int) number(options, "heartbeat_ms", 500));
            boolean cooperative = options.has("cooperative") && options.get("cooperative").getAsBoolean();
            more.put("partition.assignment.strategy", cooperative ? CooperativeStickyAssignor.class.getName() : RangeAssignor.class.getName());
        } else more.put("group.protocol", protocol);
        if (options.has("instance")) more.put("group.instance.id", options.get("instance").getAsString());
        return more;
    }

    /** Reads partitions that were assigned by hand. */
    static class Reading {
        final String topic;
        final KafkaConsumer<byte[], byte[]> consumer;

        Reading(String topic, JsonElement starts, JsonObject options) {
            this.topic = topic;
            consumer = consumer(options, Map.of());
            consumer.assign(offsets(topic, starts).keySet());
            seek(starts);
        }

        synchronized Object seek(JsonElement starts) {
            offsets(topic, starts).forEach(consumer::seek);
            return null;
        }

        synchronized Object take(int count, double wait) {
            List<Object> found = new ArrayList<>();
            long deadline = System.nanoTime() + (long) (wait * 1e9);
            for (long left; found.size() < count && (left = deadline - System.nanoTime()) > 0; )
                consumer.poll(Duration.ofNanos(left)).forEach(each -> found.add(record(each)));
            return found;
        }

        /** The library waits for the fetch under way, which nobody here has to. */
        Object close() {
            new Thread(this::closeAtLeisure).start();
            return null;
        }

        synchronized void closeAtLeisure() {
            consumer.close(Duration.ofSeconds(5));
        }
    }

    static List<Object> record(ConsumerRecord<byte[], byte[]> each) {
        List<Object> headers = new ArrayList<>();
        each.headers().forEach(h -> headers.add(Arrays.asList(h.key(), base64(h.value()))));
        return Arrays.asList(each.partition(), each.offset(), each.timestamp(),
            each.timestampType() == TimestampType.LOG_APPEND_TIME, base64(each.key()), base64(each.value()), headers);
    }

    /** A member of a group, polled by a thread of its own, as `Pumped` in `members.py`. */
    static class Member implements ConsumerRebalanceListener {
        final KafkaConsumer<byte[], byte[]> consumer;
        final boolean commits;
        final List<List<Object>> journal = Collections.synchronizedList(new ArrayList<>());
        final BlockingQueue<FutureTask<Object>> jobs = new LinkedBlockingQueue<>();
        final Thread thread = new Thread(this::pump);
        volatile List<List<Object>> owned = List.of();
        volatile boolean over;

        Member(JsonElement topics, JsonObject options) throws Exception {
            commits = options.get("commits").getAsBoolean();
            consumer = consumer(options, membership(options));
            if (topics.isJsonArray()) consumer.subscribe(strings(topics), this);
            else if (text(options, "protocol", "classic").equals("classic")) consumer.subscribe(Pattern.compile(topics.getAsString()), this);
            else subscribeByBroker(topics.getAsString());
            thread.start();
        }

        /** The pattern goes to the broker: SubscriptionPattern, from 4.0 on. */
        void subscribeByBroker(String pattern) throws Exception {
            Class<?> kind = Class.forName("org.apache.kafka.clients.consumer.SubscriptionPattern");
            KafkaConsumer.class.getMethod("subscribe", kind, ConsumerRebalanceListener.class)
                .invoke(consumer, kind.getConstructor(String.class).newInstance(pattern), this);
        }

        void pump() {
            try {
                while (!over) {
                    for (FutureTask<Object> job; (job = jobs.poll()) != null; ) job.run();
                    turn();
                }
            } finally {
                owned = List.of();
                consumer.close(Duration.ofSeconds(10));
            }
        }

        void turn() {
            try {
                Map<TopicPartition, Long> next = new HashMap<>();
                consumer.poll(Duration.ofMillis(100)).forEach(each -> {
                    note("took", each.topic(), each.partition(), each.offset());
                    next.put(new TopicPartition(each.topic(), each.partition()), each.offset() + 1);
                });
                owned = consumer.assignment().stream().map(p -> Arrays.<Object>asList(p.topic(), p.partition())).collect(Collectors.toList());
                if (commits && !next.isEmpty()) {
                    consumer.commitSync(marks(next));
                    next.forEach((place, offset) -> note("committed", place.topic(), place.partition(), offset));
                }
            } catch (KafkaException error) {
                note("refused", name(error), -1, -1);
                try {
                    Thread.sleep(100);
                } catch (InterruptedException ignored) {
                    over = true;
                }
            }
        }

        void note(String kind, String topic, int partition, long offset) {
            journal.add(Arrays.asList(System.nanoTime() / 1_000_000, kind, topic, partition, offset));
        }

        public void onPartitionsAssigned(Collection<TopicPartition> places) {
            places.forEach(p -> note("assigned", p.topic(), p.partition(), -1));
        }

        public void onPartitionsRevoked(Collection<TopicPartition> places) {
            places.forEach(p -> note("revoked", p.topic(), p.partition(), -1));
        }

        public void onPartitionsLost(Collection<TopicPartition> places) {
            places.forEach(p -> note("lost", p.topic(), p.partition(), -1));
        }

        Object since(int count) {
            synchronized (journal) {
                return new ArrayList<>(journal.subList(count, journal.size()));
            }
        }

        Object commit(JsonArray wanted, boolean wait) throws Exception {
            Map<TopicPartition, Long> next = places(wanted);
            return inPump(() -> {
                if (wait) consumer.commitSync(marks(next));
                else consumer.commitAsync(marks(next), null);
                return null;
            });
        }

        Object committed(TopicPartition place) throws Exception {
            return inPump(() -> {
                OffsetAndMetadata mark = consumer.committed(Set.of(place)).get(place);
                return mark == null ? null : mark.offset();
            });
        }

        Object seek(TopicPartition place, long offset) throws Exception {
            return inPump(() -> {
                consumer.seek(place, offset);
                return null;
            });
        }

        Object leave() throws Exception {
            over = true;
            thread.join(30_000);
            return null;
        }

        Object inPump(Callable<Object> work) throws Exception {
            FutureTask<Object> job = new FutureTask<>(work);
            jobs.add(job);
            return job.get(30, TimeUnit.SECONDS);
        }
    }

    // ---- Helpers ----------------------------------------------------------------------------------------------------

    static Object done(Future<?> future) throws Exception {
        future.get();
        return null;
    }

    static Object done(Runnable call) {
        call.run();
        return null;
    }

    /** The first of these methods that this version of the library has. */
    static Object either(Object on, String... names) throws Exception {
        for (String name : names)
            for (java.lang.reflect.Method method : on.getClass().getMethods())
                if (method.getName().equals(name) && method.getParameterCount() == 0) {
                    method.setAccessible(true);
                    return method.invoke(on);
                }
        throw new Absent(names[0]);
    }

    static int kept(Object thing) {
        synchronized (THINGS) {
            THINGS.add(thing);
            return THINGS.size() - 1;
        }
    }

    @SuppressWarnings("unchecked")
    static <T> T kept(JsonArray arguments) {
        return (T) THINGS.get(arguments.get(0).getAsInt());
    }

    static Map<TopicPartition, Long> offsets(String topic, JsonElement byPartition) {
        Map<TopicPartition, Long> found = new HashMap<>();
        byPartition.getAsJsonObject().entrySet().forEach(e -> found.put(new TopicPartition(topic, Integer.parseInt(e.getKey())), e.getValue().getAsLong()));
        return found;
    }

    static Map<TopicPartition, Long> places(JsonArray wanted) {
        Map<TopicPartition, Long> found = new HashMap<>();
        wanted.forEach(e -> found.put(new TopicPartition(e.getAsJsonArray().get(0).getAsString(),
            e.getAsJsonArray().get(1).getAsInt()), e.getAsJsonArray().get(2).getAsLong()));
        return found;
    }

    static Map<TopicPartition, OffsetAndMetadata> marks(Map<TopicPartition, Long> offsets) {
        return offsets.entrySet().stream().collect(Collectors.toMap(Map.Entry::getKey, e -> new OffsetAndMetadata(e.getValue())));
    }

    static Map<String, String> texts(JsonElement object) {
        Map<String, String> found = new HashMap<>();
        object.getAsJsonObject().entrySet().forEach(e -> found.put(e.getKey(), e.getValue().getAsString()));
        return found;
    }

    static List<String> strings(JsonElement array) {
        List<String> found = new ArrayList<>();
        array.getAsJsonArray().forEach(e -> found.add(e.getAsString()));
        return found;
    }

    static List<String> strings1(JsonArray arguments) {
        return List.of(arguments.get(0).getAsString());
    }

    static String text(JsonObject options, String name, String otherwise) {
        return options.has(name) ? options.get(name).getAsString() : otherwise;
    }

    static long number(JsonObject options, String name, long otherwise) {
        return options.has(name) ? options.get(name).getAsLong() : otherwise;
    }

    static byte[] bytes(JsonElement text) {
        return text instanceof JsonNull ? null : Base64.getDecoder().decode(text.getAsString());
    }

    static String base64(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }
}
