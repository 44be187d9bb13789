/** The suite's servers and clients in Java: one subcommand each. */
public final class Main {
    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "grpc-app" -> GrpcApp.serve();
            case "grpc-caller" -> GrpcCaller.call();
            case "http-app" -> HttpApp.serve();
            case "http-caller" -> HttpCaller.call(args[1]);
            case "kafka-app" -> Kafka.serve();
            case "kafka-caller" -> Kafka.call();
            default -> throw new IllegalArgumentException(args[0]);
        }
        // Pools of idle threads must not keep a client.
        System.exit(0);
    }
}
