package kbroker.filter;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerInterceptor;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.utils.Bytes;

/**
 * Passes on the records that match the expression in {@code kbroker.filter}.
 *
 * <p>The consumer's position is already behind what it is given, so what is left out counts as consumed. Nothing is
 * thrown from {@code onConsume}: the consumer would swallow it and hand out every record.
 */
public final class FilterInterceptor<K, V> implements ConsumerInterceptor<K, V> {
    public static final String FILTER = "kbroker.filter";

    private Filter filter;

    @Override
    public void configure(Map<String, ?> configs) {
        Object text = configs.get(FILTER);
        if (text == null) {
            throw new ConfigException("Missing required configuration \"" + FILTER + "\": an expression");
        }
        try {
            filter = Filter.parse(text.toString());
        } catch (FilterSyntaxException error) {
            throw new ConfigException(FILTER, text, error.getMessage());
        }
    }

    @Override
    public ConsumerRecords<K, V> onConsume(ConsumerRecords<K, V> records) {
        Map<TopicPartition, List<ConsumerRecord<K, V>>> matching = new HashMap<>();
        for (TopicPartition partition : records.partitions()) {
            List<ConsumerRecord<K, V>> kept = new ArrayList<>();
            for (ConsumerRecord<K, V> record : records.records(partition)) {
                if (filter.matches(bytes(record.key()), record.headers())) {
                    kept.add(record);
                }
            }
            if (!kept.isEmpty()) {
                matching.put(partition, kept);
            }
        }
        return new ConsumerRecords<>(matching, records.nextOffsets());
    }

    /** A key as the deserializer made it: bytes and text as they are, all else as it shows itself. */
    private static byte[] bytes(Object key) {
        if (key == null || key instanceof byte[]) {
            return (byte[]) key;
        }
        if (key instanceof Bytes) {
            return ((Bytes) key).get();
        }
        if (key instanceof ByteBuffer) {
            ByteBuffer buffer = ((ByteBuffer) key).duplicate();
            byte[] copy = new byte[buffer.remaining()];
            buffer.get(copy);
            return copy;
        }
        return key.toString().getBytes(StandardCharsets.UTF_8);
    }

    @Override
    public void onCommit(Map<TopicPartition, OffsetAndMetadata> offsets) {}

    @Override
    public void close() {}
}
