// Sends the requests on standard input with java.net.http; a line of JSON for each answer.

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.Base64;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Client {
    public static void main(String[] args) throws Exception {
        var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var proxy = in.readLine();
        var builder = HttpClient.newBuilder().sslContext(trusting(in.readLine())).connectTimeout(Duration.ofSeconds(40));
        builder.version(in.readLine().equals("h2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1);
        if (!proxy.equals("-")) {
            var at = proxy.split(":");
            builder.proxy(ProxySelector.of(new InetSocketAddress(at[0], Integer.parseInt(at[1]))));
        }
        var client = builder.build();
        for (var line = in.readLine(); line != null; line = in.readLine()) {
            try {
                var got = client.send(request(line.split(" ")), HttpResponse.BodyHandlers.ofByteArray());
                var version = got.version() == HttpClient.Version.HTTP_2 ? "2" : "1.1";
                System.out.printf("{\"status\":%d,\"version\":\"%s\",\"base64\":\"%s\"}%n", got.statusCode(), version,
                        Base64.getEncoder().encodeToString(got.body()));
            } catch (Exception error) {
                var text = new StringBuilder();
                for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                    text.append(cause).append(" | ");
                }
                System.out.printf("{\"broken\":\"%s\"}%n", text.toString().replaceAll("[\"\\\\\\p{Cntrl}]", "'"));
            }
        }
        System.exit(0);
    }

    // Method, URL, body and headers, each in base64; `-` for no body.
    static HttpRequest request(String[] words) {
        var body = words[2].equals("-") ? HttpRequest.BodyPublishers.noBody()
                : HttpRequest.BodyPublishers.ofString(text(words[2]));
        var request = HttpRequest.newBuilder(URI.create(text(words[1]))).method(text(words[0]), body);
        for (int at = 3; at < words.length; at += 2) {
            request.header(text(words[at]), text(words[at + 1]));
        }
        return request.timeout(Duration.ofSeconds(40)).build();
    }

    static String text(String word) {
        return new String(Base64.getDecoder().decode(word), StandardCharsets.UTF_8);
    }

    static SSLContext trusting(String file) throws Exception {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (var pem = new FileInputStream(file)) {
            int number = 0;
            for (var certificate : CertificateFactory.getInstance("X.509").generateCertificates(pem)) {
                store.setCertificateEntry("ca" + number++, certificate);
            }
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }
}
