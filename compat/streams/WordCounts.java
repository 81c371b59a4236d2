import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.*;

/**
 * A Kafka Streams application with `processing.guarantee=exactly_once_v2`, and what it takes to feed and to watch it:
 *
 *     feed                        lines of "partition timestamp text" from the standard input, by an idempotent producer;
 *                                 prints how many are acknowledged
 *     count DIRECTORY             words of all lines counted: by word, and by word and window; state in RocksDB
 *     watch                       committed records of the two outputs, as they come: "topic partition offset key value"
 *
 * The environment names the rest: BOOTSTRAP, PREFIX (of topics, and the application's id), WINDOW_MS.
 */
public class WordCounts {
    static final String BOOTSTRAP = System.getenv("BOOTSTRAP");
    static final String PREFIX = System.getenv("PREFIX");
    static final Duration WINDOW = Duration.ofMillis(Long.parseLong(System.getenv("WINDOW_MS")));
    static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "feed" -> feed();
            case "count" -> count(arguments[1]);
            case "watch" -> watch();
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    // ---- The application --------------------------------------------------------------------------------------------

    static Topology topology() {
        StreamsBuilder builder = new StreamsBuilder();
        KGroupedStream<String, String> words = builder.stream(PREFIX + "lines", Consumed.with(Serdes.String(), Serdes.String()))
            .flatMapValues(line -> Arrays.asList(line.split(" ")))
            .groupBy((key, word) -> word, Grouped.with("words", Serdes.String(), Serdes.String()));
        words.count(Materialized.as("by-word"))
            .toStream().mapValues(String::valueOf)
            .to(PREFIX + "by-word", Produced.with(Serdes.String(), Serdes.String()));
        // Partitions are read at their own pace, and slower still after a kill: no record may count as late.
        words.windowedBy(TimeWindows.ofSizeAndGrace(WINDOW, Duration.ofDays(1))).count(Materialized.as("by-window"))
            .toStream((window, count) -> window.key() + "@" + window.window().start()).mapValues(String::valueOf)
            .to(PREFIX + "by-window", Produced.with(Serdes.String(), Serdes.String()));
        return builder.build();
    }

    static void count(String directory) throws InterruptedException {
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, BOOTSTRAP);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, PREFIX + "application");
        settings.put(StreamsConfig.STATE_DIR_CONFIG, directory);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        settings.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0); // each count is told, not only the last before a commit
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 3000); // so that a kill is soon noticed
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), 500);
        KafkaStreams streams = new KafkaStreams(topology(), settings);
        streams.setUncaughtExceptionHandler(error -> {
            System.err.println("a thread is replaced: " + error);
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.setStateListener((now, before) -> System.err.println(now));
        streams.start();
        new CountDownLatch(1).await(); // it is killed
    }

    // ---- Before and behind it ---------------------------------------------------------------------------------------

    static void feed() throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", BOOTSTRAP, "enable.idempotence", true, "linger.ms", 5,
            "delivery.timeout.ms", 180_000, "reconnect.backoff.max.ms", 500);
        AtomicReference<Exception> failed = new AtomicReference<>();
        int count = 0;
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            for (String line; (line = lines.readLine()) != null; count++) {
                String[] parts = line.split(" ", 3);
                producer.send(new ProducerRecord<>(PREFIX + "lines", Integer.parseInt(parts[0]), Long.parseLong(parts[1]), null, parts[2]),
                    (metadata, error) -> {
                        if (error != null) failed.set(error);
                    });
            }
        }
        if (failed.get() != null) throw failed.get();
        OUT.println(count);
    }

    static void watch() {
        Map<String, Object> settings = Map.of("bootstrap.servers", BOOTSTRAP, "isolation.level", "read_committed",
            "auto.offset.reset", "none", "reconnect.backoff.max.ms", 500);
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            List<TopicPartition> places = new ArrayList<>();
            for (String topic : List.of("by-word", "by-window"))
                consumer.partitionsFor(PREFIX + topic).forEach(info -> places.add(new TopicPartition(info.topic(), info.partition())));
            consumer.assign(places);
            places.forEach(place -> consumer.seek(place, 0));
            while (true)
                for (ConsumerRecord<String, String> each : consumer.poll(Duration.ofMillis(500)))
                    OUT.println(each.topic().substring(PREFIX.length()) + " " + each.partition() + " " + each.offset()
                        + " " + each.key() + " " + each.value());
        }
    }
}
