import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Kafka Streams, at least once, with changelogs. MODE: `windows` is its hopping window in RocksDB,
 * of whose ten updates a payment the oldest goes out; `ring` a window by hand in RocksDB;
 * `ring-memory` the same in memory.
 */
public final class App {
  private static final Duration WINDOW = Duration.ofMinutes(10);
  private static final Duration HOP = Duration.ofMinutes(1);

  public static void main(String[] args) throws InterruptedException {
    String mode = System.getenv("MODE");
    StreamsBuilder builder = new StreamsBuilder();
    KStream<byte[], Payment> payments =
        builder.stream(
            System.getenv("INPUT"), Consumed.with(Serdes.ByteArray(), Payment.serde()));
    KStream<byte[], byte[]> features =
        mode.equals("windows") ? windows(payments) : ring(builder, payments, mode);
    features.to(
        System.getenv("OUTPUT"), Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));

    KafkaStreams streams = new KafkaStreams(builder.build(), config());
    Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(2))));
    streams.start();
    Thread.currentThread().join();
  }

  private static Properties config() {
    Properties config = new Properties();
    config.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getenv("GROUP"));
    config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("BROKERS"));
    config.put(StreamsConfig.STATE_DIR_CONFIG, System.getenv("STATE"));
    config.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
    // With the record cache on, nothing comes out before a commit, every 30 seconds.
    config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
    config.put(StreamsConfig.DEFAULT_TIMESTAMP_EXTRACTOR_CLASS_CONFIG, Payment.Time.class);
    config.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    if (System.getenv("LATENCY").equals("1")) {
      config.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 0);
    }
    return config;
  }

  private static KStream<byte[], byte[]> windows(KStream<byte[], Payment> payments) {
    Serde<byte[]> keys = Serdes.ByteArray();
    Materialized<byte[], Totals, WindowStore<Bytes, byte[]>> store =
        Materialized.<byte[], Totals>as(
                Stores.persistentWindowStore("windows", WINDOW.plus(HOP), WINDOW, false))
            .withKeySerde(keys)
            .withValueSerde(Totals.serde())
            .withCachingDisabled();
    return payments
        .groupByKey(Grouped.with(keys, Payment.serde()))
        .windowedBy(TimeWindows.ofSizeWithNoGrace(WINDOW).advanceBy(HOP))
        .aggregate(Totals::new, (key, payment, totals) -> totals.add(payment), store)
        .toStream()
        .filter((w, totals) -> w.window().start() == totals.ts / 60_000 * 60_000 - 540_000)
        .map((w, totals) -> KeyValue.pair(w.key(), totals.json()));
  }

  private static KStream<byte[], byte[]> ring(
      StreamsBuilder builder, KStream<byte[], Payment> payments, String mode) {
    var supplier =
        mode.equals("ring-memory")
            ? Stores.inMemoryKeyValueStore(Ring.STORE)
            : Stores.persistentKeyValueStore(Ring.STORE);
    builder.addStateStore(
        Stores.keyValueStoreBuilder(supplier, Serdes.ByteArray(), Serdes.ByteArray()));
    return payments.process(Ring::new, Ring.STORE);
  }
}
