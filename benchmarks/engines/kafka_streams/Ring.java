import java.nio.ByteBuffer;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * The window that a user writes by hand: eleven buckets of a minute in one value of the store, which
 * is read once and written once a payment.
 */
final class Ring implements Processor<byte[], Payment, byte[], byte[]> {
  static final String STORE = "ring";
  private static final int BUCKETS = 11;
  private static final int BYTES = 40; // minute, count, sum, min, max

  private ProcessorContext<byte[], byte[]> context;
  private KeyValueStore<byte[], byte[]> store;

  @Override
  public void init(ProcessorContext<byte[], byte[]> context) {
    this.context = context;
    store = context.getStateStore(STORE);
  }

  @Override
  public void process(Record<byte[], Payment> record) {
    Payment payment = record.value();
    byte[] old = store.get(record.key());
    byte[] data = old == null ? new byte[BUCKETS * BYTES] : old.clone();
    ByteBuffer ring = ByteBuffer.wrap(data);
    long minute = payment.ts / 60_000;
    int at = (int) (minute % BUCKETS) * BYTES;
    boolean fresh = ring.getLong(at) != minute;
    double amount = payment.amount;
    ring.putLong(at, minute);
    ring.putLong(at + 8, fresh ? 1 : ring.getLong(at + 8) + 1);
    ring.putDouble(at + 16, fresh ? amount : ring.getDouble(at + 16) + amount);
    ring.putDouble(at + 24, fresh ? amount : Math.min(ring.getDouble(at + 24), amount));
    ring.putDouble(at + 32, fresh ? amount : Math.max(ring.getDouble(at + 32), amount));
    store.put(record.key(), data);

    Totals totals = new Totals();
    totals.user = payment.user;
    totals.ts = payment.ts;
    for (int i = 0; i < data.length; i += BYTES) {
      if (ring.getLong(i) > minute - BUCKETS) {
        totals.merge(
            ring.getLong(i + 8), ring.getDouble(i + 16), ring.getDouble(i + 24),
            ring.getDouble(i + 32));
      }
    }
    context.forward(record.withValue(totals.json()));
  }
}
