package kbroker.filter;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.utils.Bytes;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfSystemProperty;

class FilterInterceptorTest {
    private static final TopicPartition ONE = new TopicPartition("orders", 0);
    private static final TopicPartition OTHER = new TopicPartition("orders", 1);

    private static FilterInterceptor<Object, String> interceptor(String filter) {
        FilterInterceptor<Object, String> interceptor = new FilterInterceptor<>();
        interceptor.configure(Map.of(FilterInterceptor.FILTER, filter));
        return interceptor;
    }

    private static ConsumerRecord<Object, String> record(TopicPartition at, long offset, Object key, String tags) {
        RecordHeaders headers = new RecordHeaders();
        if (tags != null) {
            headers.add(Filter.TAGS_HEADER, tags.getBytes(StandardCharsets.UTF_8));
        }
        return new ConsumerRecord<>(
                at.topic(), at.partition(), offset, 0, TimestampType.CREATE_TIME, 0, 0, key, null, headers, Optional.empty());
    }

    @Test
    void onlyWhatMatchesIsPassedOnAndTheNextOffsetsStay() {
        Map<TopicPartition, OffsetAndMetadata> next = Map.of(ONE, new OffsetAndMetadata(3), OTHER, new OffsetAndMetadata(8));
        ConsumerRecords<Object, String> records = new ConsumerRecords<>(
                Map.of(
                        ONE, List.of(record(ONE, 0, null, "eu"), record(ONE, 1, null, null), record(ONE, 2, null, "vip,eu")),
                        OTHER, List.of(record(OTHER, 7, null, "vip"))),
                next);
        ConsumerRecords<Object, String> found = interceptor("tags has 'eu'").onConsume(records);
        List<Long> offsets = new ArrayList<>();
        found.forEach(each -> offsets.add(each.offset()));
        assertEquals(List.of(0L, 2L), offsets);
        assertEquals(List.of(ONE), List.copyOf(found.partitions()));
        assertEquals(next, found.nextOffsets());
    }

    @Test
    void keysAreBytesTextOrWhatTheyShow() {
        byte[] bytes = "7".getBytes(StandardCharsets.UTF_8);
        Object[] keys = {bytes, "7", Bytes.wrap(bytes), ByteBuffer.wrap(bytes), 7, 7L, null, "8", 8};
        List<ConsumerRecord<Object, String>> all = new ArrayList<>();
        for (int offset = 0; offset < keys.length; offset++) {
            all.add(record(ONE, offset, keys[offset], null));
        }
        ConsumerRecords<Object, String> records = new ConsumerRecords<>(Map.of(ONE, all), Map.of());
        assertEquals(6, interceptor("key = '7'").onConsume(records).count());
    }

    @Test
    void aConsumerWithAWrongFilterIsNotMade() {
        Properties settings = settings("localhost:1");
        assertTrue(whyNotMade(settings).contains(FilterInterceptor.FILTER));
        settings.put(FilterInterceptor.FILTER, "country = de");
        assertTrue(whyNotMade(settings).contains("position 11: expected a string in quotes"));
    }

    private static String whyNotMade(Properties settings) {
        Throwable error = assertThrows(KafkaException.class, () -> new KafkaConsumer<>(settings).close());
        return assertInstanceOf(ConfigException.class, error.getCause()).getMessage();
    }

    private static Properties settings(String bootstrap) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("key.deserializer", StringDeserializer.class);
        settings.put("value.deserializer", StringDeserializer.class);
        settings.put("interceptor.classes", FilterInterceptor.class.getName());
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        return settings;
    }

    /** The topic has 100 records in one partition; every tenth has the tag eu. Both group protocols. */
    @Test
    @EnabledIfSystemProperty(named = "bootstrap", matches = ".+")
    void withABrokerWhatIsLeftOutCountsAsConsumed() {
        for (String protocol : List.of("classic", "consumer")) {
            Properties settings = settings(System.getProperty("bootstrap"));
            settings.put("group.id", "java-filter-" + protocol);
            settings.put("group.protocol", protocol);
            settings.put(FilterInterceptor.FILTER, "tags has 'eu'");
            TopicPartition partition = new TopicPartition(System.getProperty("topic"), 0);
            try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings)) {
                consumer.subscribe(List.of(partition.topic()));
                List<Long> offsets = new ArrayList<>();
                long end = System.nanoTime() + 30_000_000_000L;
                while (System.nanoTime() < end
                        && (consumer.assignment().isEmpty() || consumer.position(partition) < 100)) {
                    consumer.poll(Duration.ofMillis(200)).forEach(each -> offsets.add(each.offset()));
                }
                assertEquals(List.of(0L, 10L, 20L, 30L, 40L, 50L, 60L, 70L, 80L, 90L), offsets);
                consumer.commitSync();
                assertEquals(100, consumer.committed(Set.of(partition)).get(partition).offset());
            }
        }
    }
}
