import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;

/**
 * java.net.http.HttpClient: with `1.1` in that version; with `2`, which is its default, it offers to upgrade each
 * connection to HTTP/2 (h2c) in its first request, and goes on in the version in which it is answered.
 */
final class HttpCaller {
    private static HttpClient web;

    static void call(String version) throws Exception {
        Suite.version("Java", System.getProperty("java.version"));
        web = HttpClient.newBuilder()
                .version(version.equals("2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1).build();
        expect("hello", get("/hello"), "GET");
        var many = IntStream.range(0, 50).mapToObj(at -> web.sendAsync(request("/hello").build(), BodyHandlers.ofString()));
        var all = many.toList();
        CompletableFuture.allOf(all.toArray(CompletableFuture[]::new)).join();
        for (var one : all) {
            expect("hello", one.join().body(), "50 GETs at once");
        }
        // The offer comes with a body, too.
        expect("some words", post("/echo", "some words".getBytes()), "POST");
        System.out.println("answered in " + web.send(request("/hello").build(), BodyHandlers.ofString()).version());
        Suite.passed("short");

        var seconds = Suite.QUIET / 1000.0;
        Suite.together(
                () -> expect("late", get("/late?seconds=" + seconds), "a late answer"),
                () -> expect("begin\nend\n", get("/quiet?seconds=" + seconds), "an answer that pauses"));
        Thread.sleep(Suite.QUIET);
        expect("hello", get("/hello"), "after the pause");
        Suite.passed("quiet");

        // This client reads no answer before it has sent the whole body: the app must not answer meanwhile.
        var whole = Suite.pattern(16 * Suite.MIB);
        for (int time = 0; time < 4; time++) {
            var publisher = time % 2 == 0 ? BodyPublishers.ofByteArray(whole)
                    : BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(whole));
            var answer = web.send(request("/digest").POST(publisher).build(), BodyHandlers.ofString());
            expect(Suite.digest(whole), answer.body(), "16 MiB up");
        }
        var piece = Suite.pattern(100_000);
        for (int time = 0; time < 100; time++) {
            var answer = web.send(request("/echo").POST(BodyPublishers.ofByteArray(piece)).build(), BodyHandlers.ofByteArray());
            expect(Suite.digest(piece), Suite.digest(answer.body()), "100 KB up and back");
        }
        Suite.passed("long");
    }

    private static HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create("http://" + Suite.AT + path));
    }

    private static String get(String path) throws Exception {
        return web.send(request(path).build(), BodyHandlers.ofString()).body();
    }

    private static String post(String path, byte[] body) throws Exception {
        return web.send(request(path).POST(BodyPublishers.ofByteArray(body)).build(), BodyHandlers.ofString()).body();
    }

    private static void expect(String wanted, String found, String what) {
        Suite.expect(wanted.equals(found), what + ": expected " + wanted + ", found " + found);
    }
}
