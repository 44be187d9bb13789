import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/** The methods of compat.Echo, whose messages are plain bytes. */
final class Echo {
    static final String WORDS = "no such thing: größer";
    static final Metadata.Key<String> DETAIL = Metadata.Key.of("x-detail", Metadata.ASCII_STRING_MARSHALLER);
    static final Metadata.Key<byte[]> DETAIL_BIN = Metadata.Key.of("x-detail-bin", Metadata.BINARY_BYTE_MARSHALLER);

    private static final MethodDescriptor.Marshaller<byte[]> PLAIN = new MethodDescriptor.Marshaller<>() {
        @Override
        public InputStream stream(byte[] message) {
            return new ByteArrayInputStream(message);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                return stream.readAllBytes();
            } catch (IOException failure) {
                throw new UncheckedIOException(failure);
            }
        }
    };
    private static final Map<String, MethodType> STREAMS = Map.of("List", MethodType.SERVER_STREAMING, "Pieces",
            MethodType.SERVER_STREAMING, "Quiet", MethodType.SERVER_STREAMING, "Collect", MethodType.CLIENT_STREAMING,
            "Chat", MethodType.BIDI_STREAMING);

    static MethodDescriptor<byte[], byte[]> method(String name) {
        return MethodDescriptor.newBuilder(PLAIN, PLAIN).setType(STREAMS.getOrDefault(name, MethodType.UNARY))
                .setFullMethodName("compat.Echo/" + name).build();
    }

    static byte[] text(long value) {
        return Long.toString(value).getBytes(StandardCharsets.UTF_8);
    }

    static int number(byte[] message) {
        return Integer.parseInt(new String(message, StandardCharsets.UTF_8));
    }
}
