import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.processor.TimestampExtractor;

/** One payment, as JSON has it. */
public final class Payment {
  public String user;
  public double amount;
  public long ts;

  private static final ObjectReader READER = new ObjectMapper().readerFor(Payment.class);

  static Serde<Payment> serde() {
    return Serdes.serdeFrom(
        (topic, payment) -> {
          throw new UnsupportedOperationException();
        },
        (topic, data) -> {
          try {
            return data == null ? null : READER.readValue(data);
          } catch (IOException error) {
            throw new UncheckedIOException(error);
          }
        });
  }

  /** Event time is the payment's own. */
  public static final class Time implements TimestampExtractor {
    @Override
    public long extract(ConsumerRecord<Object, Object> record, long partitionTime) {
      return ((Payment) record.value()).ts;
    }
  }
}
