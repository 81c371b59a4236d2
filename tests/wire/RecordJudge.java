/* Kafka's own record classes, for test_records_java.py. One command an argument, batches over stdin and stdout.

   read:   every batch of stdin is validated and told in lines of text
   write:  the same three records in each codec, then a COMMIT and an ABORT marker, as batches */

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.*;

public class RecordJudge {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("read")) read(ByteBuffer.wrap(System.in.readAllBytes()));
        else write();
    }

    static void read(ByteBuffer data) {
        for (MutableRecordBatch batch : MemoryRecords.readableRecords(data).batches()) {
            batch.ensureValid();
            System.out.printf("batch %d %d %d %d %d %d %s %b %b %s %d%n", batch.baseOffset(), batch.lastOffset(),
                batch.countOrNull(), batch.producerId(), batch.producerEpoch(), batch.baseSequence(),
                batch.compressionType().name, batch.isTransactional(), batch.isControlBatch(),
                batch.timestampType().name, batch.maxTimestamp());
            for (org.apache.kafka.common.record.internal.Record record : batch) {
                record.ensureValid();
                StringBuilder line = new StringBuilder("record ");
                line.append(record.offset()).append(' ').append(record.timestamp());
                line.append(' ').append(hex(record.key())).append(' ').append(hex(record.value()));
                for (Header header : record.headers())
                    line.append(' ').append(hex(ByteBuffer.wrap(header.key().getBytes(StandardCharsets.UTF_8))))
                        .append('=').append(hex(header.value() == null ? null : ByteBuffer.wrap(header.value())));
                System.out.println(line);
                if (batch.isControlBatch()) {
                    EndTransactionMarker marker = EndTransactionMarker.deserialize(record);
                    System.out.printf("marker %s %d%n", marker.controlType(), marker.coordinatorEpoch());
                }
            }
        }
    }

    static String hex(ByteBuffer bytes) {
        if (bytes == null) return "null";
        byte[] copy = new byte[bytes.remaining()];
        bytes.duplicate().get(copy);
        return "'" + HexFormat.of().formatHex(copy) + "'";
    }

    static void write() throws Exception {
        byte[] large = new byte[100_000];
        for (int i = 0; i < large.length; i++) large[i] = (byte) (i * i >> 3);
        Header[] headers = {new RecordHeader("h", new byte[] {1, 2}), new RecordHeader("none", (byte[]) null)};
        SimpleRecord[] records = {
            new SimpleRecord(1_700_000_000_000L, "key".getBytes(), "value".getBytes(), headers),
            new SimpleRecord(1_699_999_999_995L, null, large),
            new SimpleRecord(1_700_000_070_000L, new byte[0], null)};
        Compression[] codecs = {Compression.NONE, Compression.gzip().build(), Compression.snappy().build(),
            Compression.lz4().build(), Compression.zstd().build()};
        for (Compression codec : codecs)
            put(MemoryRecords.withRecords(RecordBatch.MAGIC_VALUE_V2, 1000L, codec, TimestampType.CREATE_TIME,
                9L, (short) 1, 5, 3, true, records));
        for (ControlRecordType type : new ControlRecordType[] {ControlRecordType.COMMIT, ControlRecordType.ABORT})
            put(MemoryRecords.withEndTransactionMarker(500L, 1_700_000_000_000L, 2, 9L, (short) 4,
                new EndTransactionMarker(type, 77)));
        System.out.flush();
    }

    static void put(MemoryRecords records) {
        ByteBuffer buffer = records.buffer();
        byte[] copy = new byte[buffer.remaining()];
        buffer.get(copy);
        System.out.write(copy, 0, copy.length);
    }
}
