// Reads "key value" pairs in hexadecimal ("null" for a tombstone), one a line, with Kafka's own serde; prints for each
// what Kafka writes for the same record, and the record as text: "key value | text".

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.HexFormat;
import org.apache.kafka.coordinator.common.runtime.CoordinatorRecord;
import org.apache.kafka.coordinator.group.GroupCoordinatorRecordSerde;

public class GroupRecordJudge {
    public static void main(String[] args) throws Exception {
        GroupCoordinatorRecordSerde serde = new GroupCoordinatorRecordSerde();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] parts = line.split(" ");
            CoordinatorRecord record = serde.deserialize(bytes(parts[0]), bytes(parts[1]));
            byte[] value = serde.serializeValue(record);
            System.out.println(
                HexFormat.of().formatHex(serde.serializeKey(record)) + " "
                    + (value == null ? "null" : HexFormat.of().formatHex(value)) + " | " + record);
        }
    }

    private static ByteBuffer bytes(String hex) {
        return hex.equals("null") ? null : ByteBuffer.wrap(HexFormat.of().parseHex(hex));
    }
}
