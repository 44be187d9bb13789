import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** A broker of one node, and a client of it. */
final class Kafka {
    private static final int COUNT = 30_000;

    /** The broker advertises the caller's outbound, which is where its clients reach it. */
    static void serve() throws Exception {
        var folder = Path.of(System.getenv("DIR"));
        var controller = System.getenv("FRONT_PORT");
        var config = folder.resolve("kafka.properties");
        Files.writeString(config, String.join("\n", "process.roles=broker,controller", "node.id=1",
                "controller.quorum.voters=1@127.0.0.1:" + controller, "controller.listener.names=CONTROLLER",
                "listeners=PLAIN://127.0.0.1:" + Suite.APP_PORT + ",CONTROLLER://127.0.0.1:" + controller,
                "advertised.listeners=PLAIN://" + Suite.AT, "inter.broker.listener.name=PLAIN",
                "listener.security.protocol.map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT", "log.dirs=" + folder.resolve("kafka"),
                "offsets.topic.replication.factor=1", "offsets.topic.num.partitions=1",
                "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1",
                "transaction.state.log.num.partitions=1", "share.coordinator.state.topic.replication.factor=1",
                "share.coordinator.state.topic.min.isr=1", "group.initial.rebalance.delay.ms=0", ""));
        kafka.tools.StorageTool.execute(new String[] {"format", "--cluster-id", "Y29tcGF0LWNvbXBhdC0wMQ", "--config",
                config.toString()}, System.out);
        // Broker and clients are one process group with the broker as its leader: this does not return.
        System.out.println("Kafka storage is formatted");
        kafka.Kafka.main(new String[] {config.toString()});
    }

    private static KafkaConsumer<String, String> consumer(String topic) {
        var consumer = new KafkaConsumer<String, String>(Map.of("bootstrap.servers", Suite.AT, "group.id", topic + "-readers",
                "auto.offset.reset", "earliest"), new StringDeserializer(), new StringDeserializer());
        consumer.subscribe(List.of(topic));
        return consumer;
    }

    private static String next(KafkaConsumer<String, String> consumer) {
        for (long end = System.nanoTime() + Suite.PATIENCE * 1_000_000_000L; System.nanoTime() < end;) {
            for (var record : consumer.poll(Duration.ofSeconds(1))) {
                return record.value();
            }
        }
        throw new AssertionError("no record came");
    }

    static void call() throws Exception {
        Suite.version("kafka-clients and broker", AppInfoParser.getVersion());
        try (var admin = Admin.create(Map.of("bootstrap.servers", Suite.AT));
                var producer = new KafkaProducer<>(Map.of("bootstrap.servers", Suite.AT, "linger.ms", 5), new StringSerializer(),
                        new StringSerializer())) {
            admin.createTopics(List.of(new NewTopic("news", 1, (short) 1), new NewTopic("cargo", 3, (short) 1))).all()
                    .get(Suite.PATIENCE, TimeUnit.SECONDS);
            var news = consumer("news");
            producer.send(new ProducerRecord<>("news", "one")).get(Suite.PATIENCE, TimeUnit.SECONDS);
            Suite.expect(next(news).equals("one"), "a record");
            Suite.passed("short");

            for (long end = System.nanoTime() + Suite.QUIET * 1_000_000L; System.nanoTime() < end;) {
                Suite.expect(news.poll(Duration.ofSeconds(1)).isEmpty(), "nothing meanwhile");
            }
            producer.send(new ProducerRecord<>("news", "after the pause")).get(Suite.PATIENCE, TimeUnit.SECONDS);
            Suite.expect(next(news).equals("after the pause"), "a record after the pause");
            news.close();
            Suite.passed("quiet");

            var words = "words ".repeat(100);
            for (int at = 0; at < COUNT; at++) {
                producer.send(new ProducerRecord<>("cargo", Integer.toString(at), words));
            }
            producer.flush();
            var keys = new HashSet<String>();
            try (var cargo = consumer("cargo")) {
                for (long end = System.nanoTime() + Suite.PATIENCE * 1_000_000_000L; keys.size() < COUNT && System.nanoTime() < end;) {
                    for (var record : cargo.poll(Duration.ofSeconds(1))) {
                        Suite.expect(record.value().equals(words), "a record's value");
                        keys.add(record.key());
                    }
                }
            }
            Suite.expect(keys.size() == COUNT, "records: " + keys.size());
            Suite.passed("long");
        }
    }
}
