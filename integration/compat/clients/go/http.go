package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

func milliseconds(request *http.Request, key string, unit time.Duration) time.Duration {
	value, err := strconv.ParseFloat(request.URL.Query().Get(key), 64)
	check(err, key)
	return time.Duration(value * float64(unit))
}

func pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(answer http.ResponseWriter, _ *http.Request) { io.WriteString(answer, "hello") })
	mux.HandleFunc("/version", func(answer http.ResponseWriter, request *http.Request) { io.WriteString(answer, request.Proto) })
	mux.HandleFunc("/echo", func(answer http.ResponseWriter, request *http.Request) {
		check(http.NewResponseController(answer).EnableFullDuplex(), "full duplex")
		answer.WriteHeader(200)
		piece := make([]byte, 64*1024)
		for {
			count, err := request.Body.Read(piece)
			answer.Write(piece[:count])
			http.NewResponseController(answer).Flush()
			if err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/digest", func(answer http.ResponseWriter, request *http.Request) { io.WriteString(answer, digest(request.Body)) })
	mux.HandleFunc("/bytes", func(answer http.ResponseWriter, request *http.Request) {
		count, err := strconv.ParseInt(request.URL.Query().Get("count"), 10, 64)
		check(err, "count")
		io.CopyBuffer(answer, &pattern{left: count}, make([]byte, 256*1024))
	})
	mux.HandleFunc("/late", func(answer http.ResponseWriter, request *http.Request) {
		time.Sleep(milliseconds(request, "seconds", time.Second))
		io.WriteString(answer, "late")
	})
	mux.HandleFunc("/quiet", func(answer http.ResponseWriter, request *http.Request) {
		io.WriteString(answer, "begin\n")
		http.NewResponseController(answer).Flush()
		time.Sleep(milliseconds(request, "seconds", time.Second))
		io.WriteString(answer, "end\n")
	})
	mux.HandleFunc("/events", func(answer http.ResponseWriter, request *http.Request) {
		answer.Header().Set("Content-Type", "text/event-stream")
		count, _ := strconv.Atoi(request.URL.Query().Get("count"))
		for at := range count {
			fmt.Fprintf(answer, "id: %d\ndata: event %d\n\n", at, at)
			http.NewResponseController(answer).Flush()
			time.Sleep(milliseconds(request, "gap_ms", time.Millisecond))
		}
	})
	mux.HandleFunc("/trailers", func(answer http.ResponseWriter, request *http.Request) {
		answer.Header().Set("Trailer", "X-Sum")
		io.Copy(answer, request.Body)
		// Without a length: a body of HTTP/1.1 with one has no trailers.
		http.NewResponseController(answer).Flush()
		answer.Header().Set("X-Sum", request.Trailer.Get("X-Sum"))
	})
	mux.HandleFunc("/early", func(answer http.ResponseWriter, _ *http.Request) {
		answer.Header().Set("Link", "</style.css>; rel=preload")
		answer.WriteHeader(http.StatusEarlyHints)
		io.WriteString(answer, "hints")
	})
	upgrader := websocket.Upgrader{ReadBufferSize: 64 * 1024}
	mux.HandleFunc("/messages", func(answer http.ResponseWriter, request *http.Request) {
		socket, err := upgrader.Upgrade(answer, request, nil)
		if err != nil {
			return
		}
		defer socket.Close()
		for {
			kind, message, err := socket.ReadMessage()
			if err != nil || socket.WriteMessage(kind, message) != nil {
				return
			}
		}
	})
	return mux
}

// httpApp speaks HTTP/1.1, with `h2c` HTTP/2 with prior knowledge and by upgrade, too, with `h2c-only` nothing else.
func httpApp(args []string) {
	handler := pages()
	if len(args) > 0 && args[0] == "h2c" {
		handler = h2c.NewHandler(handler, &http2.Server{})
	}
	server := &http.Server{Addr: listen, Handler: handler}
	if len(args) > 0 && args[0] == "h2c-only" {
		server.Protocols = new(http.Protocols)
		server.Protocols.SetUnencryptedHTTP2(true)
	}
	check(server.ListenAndServe(), "serve")
}

// client speaks HTTP/1.1 or, with `h2c`, HTTP/2 with prior knowledge.
func client(args []string) *http.Client {
	if len(args) > 0 && args[0] == "h2c" {
		return &http.Client{Transport: &http2.Transport{AllowHTTP: true,
			DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			}}}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.MaxIdleConnsPerHost = 100
	return &http.Client{Transport: transport}
}

func get(web *http.Client, path string) string {
	answer, err := web.Get("http://" + at + path)
	check(err, path)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	check(err, path)
	expect(answer.StatusCode == 200, "%s: %s", path, answer.Status)
	return string(body)
}

func httpCaller(args []string) {
	version("Go", strings.TrimPrefix(runtime.Version(), "go"))
	// WebSocket is of HTTP/1.1 here: not for an app of HTTP/2 alone.
	web, http2 := client(args), len(args) > 0
	var tasks []func()
	for range 100 {
		tasks = append(tasks, func() { expect(get(web, "/hello") == "hello", "GET") })
	}
	together(tasks...)
	expect(get(web, "/early") == "hints", "an answer behind 103 Early Hints")
	trailers(web)
	if !http2 {
		message(0)
	}
	passed("short")

	pause := quiet()
	seconds := strconv.FormatFloat(pause.Seconds(), 'f', -1, 64)
	tasks = []func(){
		func() { expect(get(web, "/late?seconds="+seconds) == "late", "a late answer") },
		func() { expect(get(web, "/quiet?seconds="+seconds) == "begin\nend\n", "an answer that pauses") },
		func() {
			idle := client(args)
			expect(get(idle, "/hello") == "hello", "before the pause")
			time.Sleep(pause)
			expect(get(idle, "/hello") == "hello", "after the pause")
		},
	}
	if !http2 {
		tasks = append(tasks, func() { message(pause) })
	}
	together(tasks...)
	passed("quiet")

	answer, err := web.Post("http://"+at+"/echo", "application/octet-stream", &pattern{left: 32 * mib})
	check(err, "echo")
	expect(digest(answer.Body) == digestOf(32*mib), "echo of 32 MiB, read while it is sent")
	events := get(web, "/events?count=200&gap_ms=50")
	expect(strings.Count(events, "data: event") == 200, "server-sent events")
	passed("long")
}

func trailers(web *http.Client) {
	request, err := http.NewRequest("POST", "http://"+at+"/trailers", io.NopCloser(strings.NewReader("body")))
	check(err, "request")
	// Only who asks for trailers is sent them (RFC 9110 section 6.5.1).
	request.Header.Set("TE", "trailers")
	request.Trailer = http.Header{"X-Sum": {"sum of the body"}}
	answer, err := web.Do(request)
	check(err, "trailers")
	body, err := io.ReadAll(answer.Body)
	check(err, "trailers")
	expect(string(body) == "body" && answer.Trailer.Get("X-Sum") == "sum of the body", "trailers both ways: %q, %v", body, answer.Trailer)
}

// message sends and takes WebSocket messages with a pause between them.
func message(pause time.Duration) {
	socket, _, err := websocket.DefaultDialer.Dial("ws://"+at+"/messages", nil)
	check(err, "WebSocket")
	for _, sent := range [][]byte{[]byte("before"), bytes.Repeat([]byte("x"), mib)} {
		check(socket.WriteMessage(websocket.BinaryMessage, sent), "message")
		_, found, err := socket.ReadMessage()
		check(err, "message")
		expect(bytes.Equal(sent, found), "echo of a message")
		time.Sleep(pause)
	}
	check(socket.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(patience)), "close")
	_, _, err = socket.ReadMessage()
	expect(websocket.IsCloseError(err, 1000), "the end of a WebSocket: %v", err)
}
