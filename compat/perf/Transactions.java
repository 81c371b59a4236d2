import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Transactions of Kafka's own producer: BOOTSTRAP TOPIC transactional|idempotent|streaming TRANSACTIONS RECORDS
 * RECORD_BYTES. An idempotent producer sends as many records, and waits for them in the same way; a streaming one waits
 * at the end only. Marks its measured part as python_client.py does, and prints one line of JSON.
 */
public final class Transactions {
    private final String topic;
    private final boolean isTransactional;
    private final boolean isStreaming;
    private final int size;
    private final byte[] value;
    private final KafkaProducer<byte[], byte[]> producer;

    private Transactions(String bootstrap, String topic, String kind, int size, int recordBytes) {
        this.topic = topic;
        this.isTransactional = kind.equals("transactional");
        this.isStreaming = kind.equals("streaming");
        this.size = size;
        value = new byte[recordBytes];
        new java.util.Random(1).nextBytes(value);
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        if (isTransactional) {
            settings.put("transactional.id", topic + "-" + size);
        }
        producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
        if (isTransactional) {
            producer.initTransactions();
        }
    }

    private void send() throws Exception {
        if (isTransactional) {
            producer.beginTransaction();
        }
        Future<RecordMetadata> last = null;
        for (int n = 0; n < size; n++) {
            last = producer.send(new ProducerRecord<>(topic, value));
        }
        if (isTransactional) {
            producer.commitTransaction();
        } else if (isStreaming) {
            return;
        } else {
            producer.flush();
        }
        last.get();
    }

    public static void main(String[] arguments) throws Exception {
        int transactions = Integer.parseInt(arguments[3]);
        int size = Integer.parseInt(arguments[4]);
        int recordBytes = Integer.parseInt(arguments[5]);
        Transactions client = new Transactions(arguments[0], arguments[1], arguments[2], size, recordBytes);
        for (int n = 0; n < Math.max(50, transactions / 5); n++) {
            client.send();
        }
        client.producer.flush();
        System.err.println("start");
        long began = System.nanoTime();
        for (int n = 0; n < transactions; n++) {
            client.send();
        }
        client.producer.flush();
        double seconds = (System.nanoTime() - began) / 1e9;
        System.err.println("stop");
        long records = (long) transactions * size;
        System.out.printf(
            "{\"requests\": %d, \"records\": %d, \"bytes\": %d, \"seconds\": %f, \"rate\": %f, \"records_s\": %f}%n",
            transactions, records, records * recordBytes, seconds, transactions / seconds, records / seconds);
        client.producer.close();
    }
}
