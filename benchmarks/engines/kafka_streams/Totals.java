import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** What a window holds of one user. */
final class Totals {
  String user = "";
  long ts;
  long count;
  double sum;
  double min = Double.POSITIVE_INFINITY;
  double max = Double.NEGATIVE_INFINITY;

  Totals add(Payment payment) {
    user = payment.user;
    ts = payment.ts;
    merge(1, payment.amount, payment.amount, payment.amount);
    return this;
  }

  void merge(long count, double sum, double min, double max) {
    this.count += count;
    this.sum += sum;
    this.min = Math.min(this.min, min);
    this.max = Math.max(this.max, max);
  }

  byte[] json() {
    return new StringBuilder(160)
        .append("{\"user\":\"").append(user)
        .append("\",\"ts\":").append(ts)
        .append(",\"count\":").append(count)
        .append(",\"sum\":").append(sum)
        .append(",\"mean\":").append(sum / count)
        .append(",\"min\":").append(min)
        .append(",\"max\":").append(max)
        .append('}').toString().getBytes(StandardCharsets.ISO_8859_1);
  }

  static Serde<Totals> serde() {
    return Serdes.serdeFrom(
        (topic, t) -> {
          if (t == null) return null;
          byte[] user = t.user.getBytes(StandardCharsets.ISO_8859_1);
          return ByteBuffer.allocate(40 + user.length)
              .putLong(t.ts).putLong(t.count).putDouble(t.sum).putDouble(t.min).putDouble(t.max)
              .put(user).array();
        },
        (topic, data) -> {
          if (data == null) return null;
          ByteBuffer in = ByteBuffer.wrap(data);
          Totals t = new Totals();
          t.ts = in.getLong();
          t.count = in.getLong();
          t.sum = in.getDouble();
          t.min = in.getDouble();
          t.max = in.getDouble();
          t.user = new String(data, 40, data.length - 40, StandardCharsets.ISO_8859_1);
          return t;
        });
  }
}
