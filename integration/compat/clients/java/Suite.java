import java.security.MessageDigest;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.concurrent.CompletableFuture;

/** What every program of the suite in Java shares. */
final class Suite {
    static final String AT = System.getenv("AT");
    static final int APP_PORT = Integer.parseInt(System.getenv("APP_PORT"));
    static final long QUIET = (long) (Double.parseDouble(System.getenv("QUIET")) * 1000);
    static final int MIB = 1 << 20;
    static final long PATIENCE = 240;

    interface Task {
        void run() throws Exception;
    }

    static void passed(String exchange) {
        System.out.println("passed: " + exchange);
        System.out.flush();
    }

    static void version(String name, String number) {
        System.out.println("version: " + name + " " + number);
    }

    static void expect(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    /** Runs all at once, and fails with the first failure. */
    static void together(Task... tasks) {
        CompletableFuture.allOf(Arrays.stream(tasks).map(Suite::begin).toArray(CompletableFuture[]::new)).join();
    }

    private static CompletableFuture<Void> begin(Task task) {
        var done = new CompletableFuture<Void>();
        var thread = new Thread(() -> {
            try {
                task.run();
                done.complete(null);
            } catch (Throwable failure) {
                failure.printStackTrace();
                System.exit(1);
            }
        });
        thread.setDaemon(true);
        thread.start();
        return done;
    }

    interface Question {
        boolean ask() throws Exception;
    }

    static void until(String what, Question question) throws Exception {
        for (long end = System.nanoTime() + PATIENCE * 1_000_000_000L; System.nanoTime() < end; Thread.sleep(50)) {
            if (question.ask()) {
                return;
            }
        }
        throw new AssertionError("never happened: " + what);
    }

    /** Bytes that depend on their place. */
    static byte[] pattern(int count) {
        var whole = new byte[count];
        for (int at = 0; at < count; at++) {
            whole[at] = (byte) (at * 31 + (at >> 8) * 17 + (at >> 16));
        }
        return whole;
    }

    static String digest(byte[] whole) throws java.security.NoSuchAlgorithmException {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(whole));
    }
}
