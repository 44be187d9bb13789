import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/** The JDK's own HTTP/1.1 server. */
final class HttpApp {
    static void serve() throws Exception {
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", Suite.APP_PORT), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", HttpApp::answer);
        server.start();
        Thread.currentThread().join();
    }

    private static void answer(HttpExchange exchange) throws IOException {
        try (exchange) {
            var query = exchange.getRequestURI().getQuery();
            var value = query == null ? 0 : Double.parseDouble(query.substring(query.indexOf('=') + 1));
            switch (exchange.getRequestURI().getPath()) {
                case "/hello" -> say(exchange, "hello");
                case "/echo" -> {
                    exchange.sendResponseHeaders(200, 0);
                    exchange.getRequestBody().transferTo(exchange.getResponseBody());
                }
                case "/digest" -> {
                    try {
                        say(exchange, Suite.digest(exchange.getRequestBody().readAllBytes()));
                    } catch (java.security.NoSuchAlgorithmException never) {
                        throw new IOException(never);
                    }
                }
                case "/late" -> {
                    pause(value);
                    say(exchange, "late");
                }
                case "/quiet" -> {
                    exchange.sendResponseHeaders(200, 0);
                    exchange.getResponseBody().write("begin\n".getBytes(StandardCharsets.UTF_8));
                    exchange.getResponseBody().flush();
                    pause(value);
                    exchange.getResponseBody().write("end\n".getBytes(StandardCharsets.UTF_8));
                }
                default -> exchange.sendResponseHeaders(404, -1);
            }
        }
    }

    private static void pause(double seconds) throws IOException {
        try {
            Thread.sleep((long) (seconds * 1000));
        } catch (InterruptedException interrupted) {
            throw new IOException(interrupted);
        }
    }

    private static void say(HttpExchange exchange, String text) throws IOException {
        var bytes = text.getBytes(StandardCharsets.UTF_8);
        boolean head = exchange.getRequestMethod().equals("HEAD");
        exchange.sendResponseHeaders(200, head ? -1 : bytes.length);
        if (!head) {
            exchange.getResponseBody().write(bytes);
        }
    }
}
