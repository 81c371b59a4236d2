import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * copier.py with Kafka's own client: the same arguments without CLIENT, the same lines on stdout. It is the one that
 * goes by transaction.version 2 where that is finalized.
 */
public final class Copier {
    private final String target;
    private final KafkaProducer<String, String> producer;
    private final KafkaConsumer<String, String> consumer;

    private Copier(String bootstrap, String source, String target, String name, int records) {
        this.target = target;
        producer = new KafkaProducer<>(settings(bootstrap, Map.of(
            "transactional.id", name, "transaction.timeout.ms", "60000", "linger.ms", "0")),
            new StringSerializer(), new StringSerializer());
        insist(producer::initTransactions);
        consumer = new KafkaConsumer<>(settings(bootstrap, Map.of(
            "group.id", name, "group.instance.id", name, "session.timeout.ms", "30000", "enable.auto.commit", "false",
            "auto.offset.reset", "earliest", "isolation.level", "read_committed",
            "max.poll.records", String.valueOf(records))),
            new StringDeserializer(), new StringDeserializer());
        consumer.subscribe(List.of(source));
    }

    private static Properties settings(String bootstrap, Map<String, String> own) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("reconnect.backoff.ms", "20");
        settings.put("reconnect.backoff.max.ms", "200");
        settings.putAll(own);
        return settings;
    }

    private void run() {
        while (true) {
            ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(500));
            if (records.isEmpty()) {
                continue;
            }
            say("begun");
            try {
                copy(records);
                say("committed " + records.count());
            } catch (ProducerFencedException | InvalidProducerEpochException fatal) {
                throw fatal;
            } catch (KafkaException reason) {
                insist(producer::abortTransaction);
                rewind();
                say("aborted " + reason);
            }
        }
    }

    private void copy(ConsumerRecords<String, String> records) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        producer.beginTransaction();
        for (ConsumerRecord<String, String> each : records) {
            producer.send(new ProducerRecord<>(target, each.partition(), each.key(), "copy of " + each.value()));
            offsets.put(new TopicPartition(each.topic(), each.partition()), new OffsetAndMetadata(each.offset() + 1));
        }
        producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
        insist(producer::commitTransaction);
    }

    private void rewind() {
        consumer.committed(consumer.assignment()).forEach((place, committed) ->
            consumer.seek(place, committed == null ? 0 : committed.offset()));
    }

    /** These calls may be made again after a timeout: they go on with what was begun. */
    private static void insist(Runnable call) {
        while (true) {
            try {
                call.run();
                return;
            } catch (TimeoutException again) {
                say("again " + again.getMessage());
            }
        }
    }

    private static void say(String line) {
        System.out.println(line.replace('\n', ' '));
        System.out.flush();
    }

    public static void main(String[] arguments) {
        try {
            new Copier(arguments[0], arguments[1], arguments[2], arguments[3], Integer.parseInt(arguments[4])).run();
        } catch (RuntimeException reason) {
            say("ended " + reason);
            System.exit(1);
        }
    }
}
