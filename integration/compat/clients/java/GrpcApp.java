import io.grpc.Metadata;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/** grpc-java's server of compat.Echo. */
final class GrpcApp {
    private static final AtomicInteger CANCELLED = new AtomicInteger();
    private static final ScheduledExecutorService CLOCK = Executors.newScheduledThreadPool(2);

    static void serve() throws Exception {
        var service = ServerServiceDefinition.builder("compat.Echo")
                .addMethod(Echo.method("Unary"), ServerCalls.asyncUnaryCall((message, out) -> reply(out, message)))
                .addMethod(Echo.method("Fail"), ServerCalls.asyncUnaryCall((message, out) -> fail(out)))
                .addMethod(Echo.method("Slow"), ServerCalls.asyncUnaryCall(GrpcApp::slow))
                .addMethod(Echo.method("Cancelled"),
                        ServerCalls.asyncUnaryCall((message, out) -> reply(out, Echo.text(CANCELLED.get()))))
                .addMethod(Echo.method("List"), ServerCalls.asyncServerStreamingCall(GrpcApp::list))
                .addMethod(Echo.method("Pieces"), ServerCalls.asyncServerStreamingCall(GrpcApp::pieces))
                .addMethod(Echo.method("Quiet"), ServerCalls.asyncServerStreamingCall(GrpcApp::quiet))
                .addMethod(Echo.method("Collect"), ServerCalls.asyncClientStreamingCall(GrpcApp::collect))
                .addMethod(Echo.method("Chat"), ServerCalls.asyncBidiStreamingCall(GrpcApp::chat)).build();
        NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", Suite.APP_PORT))
                .addService(service).build().start().awaitTermination();
    }

    private static void reply(StreamObserver<byte[]> out, byte[] message) {
        out.onNext(message);
        out.onCompleted();
    }

    private static void fail(StreamObserver<byte[]> out) {
        var trailers = new Metadata();
        trailers.put(Echo.DETAIL, "some detail");
        trailers.put(Echo.DETAIL_BIN, new byte[] {0, (byte) 0xff});
        out.onError(Status.NOT_FOUND.withDescription(Echo.WORDS).asRuntimeException(trailers));
    }

    private static void slow(byte[] message, StreamObserver<byte[]> out) {
        var call = (ServerCallStreamObserver<byte[]>) out;
        call.setOnCancelHandler(CANCELLED::incrementAndGet);
        CLOCK.schedule(() -> {
            if (!call.isCancelled()) {
                reply(out, message);
            }
        }, Echo.number(message), TimeUnit.MILLISECONDS);
    }

    private static void list(byte[] message, StreamObserver<byte[]> out) {
        for (int at = 0; at < Echo.number(message); at++) {
            out.onNext(Echo.text(at));
        }
        out.onCompleted();
    }

    private static void pieces(byte[] message, StreamObserver<byte[]> out) {
        var call = (ServerCallStreamObserver<byte[]>) out;
        var left = new AtomicInteger(Echo.number(message) * 16);
        call.setOnReadyHandler(() -> {
            while (call.isReady() && left.get() > 0) {
                call.onNext(new byte[65536]);
                if (left.decrementAndGet() == 0) {
                    call.onCompleted();
                }
            }
        });
    }

    private static void quiet(byte[] message, StreamObserver<byte[]> out) {
        out.onNext("begin".getBytes());
        CLOCK.schedule(() -> reply(out, "end".getBytes()), Echo.number(message), TimeUnit.MILLISECONDS);
    }

    private static StreamObserver<byte[]> collect(StreamObserver<byte[]> out) {
        var total = new AtomicLong();
        return new Messages(message -> total.addAndGet(message.length), () -> reply(out, Echo.text(total.get())));
    }

    private static StreamObserver<byte[]> chat(StreamObserver<byte[]> out) {
        return new Messages(out::onNext, out::onCompleted);
    }

    /** What a caller streams. */
    private record Messages(java.util.function.Consumer<byte[]> each, Runnable end) implements StreamObserver<byte[]> {
        @Override
        public void onNext(byte[] message) {
            each.accept(message);
        }

        @Override
        public void onError(Throwable failure) {
            CANCELLED.incrementAndGet();
        }

        @Override
        public void onCompleted() {
            end.run();
        }
    }
}
