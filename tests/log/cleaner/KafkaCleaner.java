/* Kafka's own Cleaner, for test_kafka_cleaner.py: one pass over the log in a directory, which is left as it leaves it.

   arguments:  directory (topic-partition)  first dirty offset  now ms  delete.retention.ms  segment.bytes  map bytes
   stdout:     the offset up to which the log is clean */

import java.io.File;
import java.util.Map;
import java.util.Optional;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.server.util.KafkaScheduler;
import org.apache.kafka.storage.internals.log.*;
import org.apache.kafka.storage.internals.utils.Throttler;
import org.apache.kafka.storage.log.metrics.BrokerTopicStats;

public class KafkaCleaner {
    public static void main(String[] args) throws Exception {
        long dirty = Long.parseLong(args[1]), now = Long.parseLong(args[2]);
        Time time = time(now);
        LogConfig config = new LogConfig(Map.of("cleanup.policy", "compact", "delete.retention.ms", args[3],
            LogConfig.INTERNAL_SEGMENT_BYTES_CONFIG, args[4], "file.delete.delay.ms", "0"));
        KafkaScheduler scheduler = new KafkaScheduler(1);
        scheduler.startup();
        UnifiedLog log = UnifiedLog.create(new File(args[0]), config, 0L, 0L, scheduler, new BrokerTopicStats(false),
            time, 900_000, new ProducerStateManagerConfig(Integer.MAX_VALUE, false), 600_000,
            new LogDirFailureChannel(1), true, Optional.empty());
        log.updateHighWatermark(log.logEndOffset());
        long uncleanable = Math.min(log.lastStableOffset(), log.activeSegment().baseOffset());
        Cleaner cleaner = new Cleaner(0, new SkimpyOffsetMap(Integer.parseInt(args[5])), 1 << 20, 1 << 24, 0.9,
            new Throttler(Double.MAX_VALUE, 300, "cleaner-io", "bytes", Time.SYSTEM), time, partition -> { });
        System.out.println(cleaner.doClean(new LogToClean(log, dirty, uncleanable, true), now).getKey());
        scheduler.shutdown();
        log.close();
        System.exit(0);
    }

    static Time time(long now) {
        return new Time() {
            public long milliseconds() { return now; }
            public long nanoseconds() { return now * 1_000_000; }
            public void sleep(long ms) {}
            public void waitObject(Object o, java.util.function.Supplier<Boolean> condition, long deadlineMs) {}
        };
    }
}
