import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.util.Arrays;
import java.util.Iterator;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** grpc-java's client of compat.Echo. */
final class GrpcCaller {
    private static final byte[] END = new byte[0];
    private static ManagedChannel channel;

    static void call() throws Exception {
        channel = NettyChannelBuilder.forTarget(Suite.AT).usePlaintext().maxInboundMessageSize(8 * Suite.MIB).build();
        Suite.version("grpc-java", "1.85.1");
        briefly();
        Suite.passed("short");
        quiet();
        Suite.passed("quiet");
        Suite.Task steady = () -> {
            for (int at = 0; at < 1000; at++) {
                Suite.expect(Echo.number(unary("Unary", Echo.text(at))) == at, "one of many calls");
            }
        };
        Suite.together(steady, steady, () -> {
            long total = 0;
            for (var pieces = replies("Pieces", Echo.text(32)); pieces.hasNext();) {
                total += pieces.next().length;
            }
            Suite.expect(total == 32 * Suite.MIB, "a stream of 32 MiB: " + total);
            Suite.expect(collect(512, new byte[65536]) == 32 * Suite.MIB, "32 MiB up");
        });
        Suite.passed("long");
    }

    private static CallOptions within(long milliseconds) {
        return CallOptions.DEFAULT.withDeadlineAfter(milliseconds, TimeUnit.MILLISECONDS);
    }

    private static byte[] unary(String method, byte[] message) {
        return ClientCalls.blockingUnaryCall(channel, Echo.method(method), within(2 * Suite.PATIENCE * 1000), message);
    }

    private static Iterator<byte[]> replies(String method, byte[] message) {
        return ClientCalls.blockingServerStreamingCall(channel, Echo.method(method), within(2 * Suite.PATIENCE * 1000), message);
    }

    private static int cancelled() {
        return Echo.number(unary("Cancelled", END));
    }

    private static int collect(int count, byte[] message) throws Exception {
        var answer = new CompletableFuture<byte[]>();
        var call = channel.newCall(Echo.method("Collect"), within(Suite.PATIENCE * 1000));
        var out = (ClientCallStreamObserver<byte[]>) ClientCalls.asyncClientStreamingCall(call, new Replies(answer::complete));
        for (int at = 0; at < count; at++) {
            Suite.until("the stream takes more", out::isReady);
            out.onNext(message);
        }
        out.onCompleted();
        return Echo.number(answer.get(Suite.PATIENCE, TimeUnit.SECONDS));
    }

    /** One bidirectional stream that is fed message by message. */
    private static final class Chat {
        final BlockingQueue<Object> replies = new LinkedBlockingQueue<>();
        final ClientCallStreamObserver<byte[]> out;

        Chat() {
            var call = channel.newCall(Echo.method("Chat"), within(2 * Suite.PATIENCE * 1000));
            out = (ClientCallStreamObserver<byte[]>) ClientCalls.asyncBidiStreamingCall(call, new StreamObserver<byte[]>() {
                @Override
                public void onNext(byte[] reply) {
                    replies.add(reply);
                }

                @Override
                public void onError(Throwable failure) {
                    replies.add(failure);
                }

                @Override
                public void onCompleted() {
                    replies.add(END);
                }
            });
        }

        void echo(String text) throws Exception {
            out.onNext(text.getBytes());
            var reply = replies.poll(Suite.PATIENCE, TimeUnit.SECONDS);
            Suite.expect(reply instanceof byte[] bytes && Arrays.equals(bytes, text.getBytes()), "echo in a stream: " + reply);
        }

        void end() throws Exception {
            out.onCompleted();
            var last = replies.poll(Suite.PATIENCE, TimeUnit.SECONDS);
            Suite.expect(last == END, "the end of a stream: " + last);
        }
    }

    private record Replies(java.util.function.Consumer<byte[]> take) implements StreamObserver<byte[]> {
        @Override
        public void onNext(byte[] reply) {
            take.accept(reply);
        }

        @Override
        public void onError(Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }

        @Override
        public void onCompleted() {}
    }

    private static void briefly() throws Exception {
        for (var message : new byte[][] {"word".getBytes(), END, new byte[Suite.MIB]}) {
            Suite.expect(Arrays.equals(unary("Unary", message), message), "unary call");
        }
        try {
            unary("Fail", END);
            throw new AssertionError("a call that must fail did not");
        } catch (StatusRuntimeException failure) {
            var status = failure.getStatus();
            Suite.expect(status.getCode() == Status.Code.NOT_FOUND && Echo.WORDS.equals(status.getDescription()), "status: " + status);
            var trailers = failure.getTrailers();
            Suite.expect("some detail".equals(trailers.get(Echo.DETAIL)), "trailers: " + trailers);
            Suite.expect(Arrays.equals(trailers.get(Echo.DETAIL_BIN), new byte[] {0, (byte) 0xff}), "binary trailers");
        }
        int listed = 0;
        for (var replies = replies("List", Echo.text(1000)); replies.hasNext(); listed++) {
            Suite.expect(Echo.number(replies.next()) == listed, "reply " + listed);
        }
        Suite.expect(listed == 1000, "server's stream: " + listed);
        Suite.expect(collect(1000, new byte[1000]) == 1_000_000, "client's stream");
        var chat = new Chat();
        for (int at = 0; at < 100; at++) {
            chat.echo(Integer.toString(at));
        }
        chat.end();

        int before = cancelled();
        try {
            ClientCalls.blockingUnaryCall(channel, Echo.method("Slow"), within(500), Echo.text(100_000));
            throw new AssertionError("no deadline");
        } catch (StatusRuntimeException failure) {
            Suite.expect(failure.getStatus().getCode() == Status.Code.DEADLINE_EXCEEDED, "deadline: " + failure);
        }
        Suite.until("the server learns of the deadline", () -> cancelled() > before);
        int then = cancelled();
        var cancelled = new Chat();
        cancelled.echo("to be cancelled");
        cancelled.out.cancel("not wanted any more", null);
        Suite.until("the server learns of the cancellation", () -> cancelled() > then);
    }

    private static void quiet() throws Exception {
        var tasks = new Suite.Task[153];
        Arrays.fill(tasks, (Suite.Task) () -> Suite.expect(Echo.number(unary("Slow", Echo.text(1000))) == 1000, "150 calls at once"));
        tasks[0] = () -> {
            var chat = new Chat();
            chat.echo("before");
            Thread.sleep(Suite.QUIET);
            chat.echo("after");
            chat.end();
        };
        tasks[1] = () -> {
            var seen = new StringBuilder();
            replies("Quiet", Echo.text(Suite.QUIET)).forEachRemaining(reply -> seen.append(new String(reply)));
            Suite.expect(seen.toString().equals("beginend"), "a server's stream that pauses: " + seen);
        };
        tasks[2] = () -> Suite.expect(Echo.number(unary("Slow", Echo.text(Suite.QUIET))) == Suite.QUIET, "a late answer");
        Suite.together(tasks);
    }
}
