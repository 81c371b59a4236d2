/* Kafka's own LogValidator, for test_validation_java.py.

   arguments:  CreateTime|LogAppendTime  delete|compact  now ms  message.timestamp.before.max.ms  ...after.max.ms
   stdin:      batches, each behind its length as int32
   stdout:     a line each: "0 <max timestamp of the batch as it would be stored>",
               or "<error code> <index of a bad record> ..." where the batch is refused */

import java.io.DataInputStream;
import java.nio.ByteBuffer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.*;
import org.apache.kafka.common.requests.ProduceRequest;
import org.apache.kafka.common.requests.ProduceResponse;
import org.apache.kafka.common.utils.*;
import org.apache.kafka.storage.internals.log.*;

public class BatchJudge {
    public static void main(String[] args) throws Exception {
        DataInputStream in = new DataInputStream(System.in);
        for (int size = in.readInt(); size >= 0; size = in.readInt())
            System.out.println(judge(in.readNBytes(size), args));
    }

    static String judge(byte[] bytes, String[] args) {
        try {
            MemoryRecords records = MemoryRecords.readableRecords(ByteBuffer.wrap(bytes));
            ProduceRequest.validateRecords((short) 9, records);
            CompressionType codec = records.batches().iterator().next().compressionType();
            LogValidator validator = new LogValidator(records, new TopicPartition("t", 0), time(Long.parseLong(args[2])),
                codec, Compression.of(codec).build(), args[1].equals("compact"), (byte) 2,
                TimestampType.forName(args[0]), Long.parseLong(args[3]), Long.parseLong(args[4]), 0,
                AppendOrigin.CLIENT);
            LogValidator.ValidationResult result = validator.validateMessagesAndAssignOffsets(
                PrimitiveRef.ofLong(0), recorder(), BufferSupplier.NO_CACHING);
            MutableRecordBatch batch = result.validatedRecords().batches().iterator().next();
            batch.ensureValid();
            return "0 " + batch.maxTimestamp() + (batch.timestampType().id == 0 ? "" : " append time");
        } catch (RecordValidationException e) {
            StringBuilder line = new StringBuilder().append(Errors.forException(e.invalidException()).code());
            for (ProduceResponse.RecordError error : e.recordErrors()) line.append(' ').append(error.batchIndex);
            return line.toString();
        } catch (Throwable e) {
            return "" + Errors.forException(e).code();
        }
    }

    static Time time(long now) {
        return new Time() {
            public long milliseconds() { return now; }
            public long nanoseconds() { return now * 1_000_000; }
            public void sleep(long ms) {}
            public void waitObject(Object o, java.util.function.Supplier<Boolean> condition, long deadlineMs) {}
        };
    }

    static LogValidator.MetricsRecorder recorder() {
        return new LogValidator.MetricsRecorder() {
            public void recordInvalidMagic() {}
            public void recordInvalidOffset() {}
            public void recordInvalidSequence() {}
            public void recordInvalidChecksums() {}
            public void recordNoKeyCompactedTopic() {}
        };
    }
}
