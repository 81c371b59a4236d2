// A producer of Kafka's own client with its default settings: Load BOOTSTRAP TOPIC PARTITIONS RATE SIZE, until its input
// ends; then what is under way is waited for. On stdout a line for each answer:
//     ack PARTITION NUMBER OFFSET MILLISECONDS SENT        or        error TEXT
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Load {
    static volatile boolean going = true;

    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int partitions = Integer.parseInt(args[2]), rate = Integer.parseInt(args[3]), size = Integer.parseInt(args[4]);
        Thread input = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (java.io.IOException ended) { }
            going = false;
        });
        input.setDaemon(true);
        input.start();
        Properties settings = new Properties();
        settings.put("bootstrap.servers", args[0]);
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            long began = System.nanoTime(), sent = 0;
            while (going) {
                long due = (System.nanoTime() - began) * rate / 1_000_000_000L;
                for (; sent < due && going; sent++) {
                    send(producer, topic, (int) (sent % partitions), sent / partitions, size);
                }
                Thread.sleep(5);
            }
        }
        System.out.flush();
    }

    static void send(KafkaProducer<byte[], byte[]> producer, String topic, int partition, long number, int size) {
        byte[] value = new byte[size], head = (number + " ").getBytes(StandardCharsets.US_ASCII);
        Arrays.fill(value, (byte) 'x');
        System.arraycopy(head, 0, value, 0, head.length);
        long sent = System.currentTimeMillis();
        producer.send(new ProducerRecord<>(topic, partition, null, value), (metadata, failure) -> {
            long now = System.currentTimeMillis();
            System.out.println(failure == null
                ? "ack " + partition + " " + number + " " + metadata.offset() + " " + now + " " + sent
                : "error " + failure);
        });
    }
}
